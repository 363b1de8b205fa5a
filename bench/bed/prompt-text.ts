const question = "Tell me a story about a fox. ";

/** About so many bytes; a short prompt has the length of a question. */
export function promptText(bytes: number): string {
  return question.repeat(Math.max(1, Math.round(bytes / question.length)));
}
