/** What the name of a failure zone may be, in words; the form of a Kubernetes label value. */
export const zoneRange =
  "at most 63 characters of a-z, A-Z, 0-9, dot, underscore and hyphen that begin and end with a letter or digit";

/** Whether it may name a failure zone, such as "eu-1a"; empty stands for an unknown one. */
export function isZone(text: string): boolean {
  return /^(?:[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?)?$/.test(text);
}
