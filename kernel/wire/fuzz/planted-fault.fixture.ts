/** A decoder with a defect behind four bytes that must all be right: one input in four thousand million has them. */
export function decodeWithFault(input: Buffer): string {
  if (input.length > 4 && input[0] === 0x48) {
    if (input[1] === 0x4d) {
      if (input[2] === 0x80) {
        if (input[3] === 0x07) {
          throw new RangeError("read behind the end");
        }
      }
    }
  }
  return "well";
}
