/** JSON has no -Infinity; OpenAI sends -9999 for what is out of reach. */
export function finiteLogprob(logprob: number): number {
  return logprob >= -9_999 ? logprob : -9_999;
}
