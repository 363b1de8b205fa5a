import { crc32 } from "node:zlib";
import { randomInt, seededRandom } from "#kernel/random.ts";

/** Runs `read` on the input whole and in pieces, for some on every byte alone; gives what all of them gave. */
export function sameHoweverSplit(input: Buffer, read: (pieces: readonly Buffer[]) => string): string {
  const whole = read([input]);
  const everyByte = crc32(input) % 8 === 0;
  const split = read(everyByte ? [...input].map((byte) => Buffer.of(byte)) : piecesOf(input));
  if (split !== whole) throw new Error(`in ${everyByte ? "bytes" : "pieces"} it is\n${split}\nand whole\n${whole}`);
  return whole;
}

/** The same for the same input. */
export function piecesOf(input: Buffer): Buffer[] {
  const random = seededRandom(crc32(input));
  const pieces: Buffer[] = [];
  for (let at = 0; at < input.length;) {
    const next = at + 1 + randomInt(random, randomInt(random, 2) === 0 ? 4 : 60);
    pieces.push(input.subarray(at, next));
    at = next;
  }
  return pieces;
}

/** As a socket lends it: somewhere in memory that is used again. */
export function lend(piece: Buffer, read: (bytes: Buffer, start: number, end: number) => void): void {
  const memory = Buffer.allocUnsafe(piece.length + 8);
  piece.copy(memory, 5);
  read(memory, 5, 5 + piece.length);
  memory.fill(0xee);
}

/** What remains of a text when its numbers and values are taken away, and how large a count is. */
export function kindOf(fault: string, ...counts: number[]): string {
  return [fault.replace(/\d+/g, "#").slice(0, 80), ...counts.map((count) => 32 - Math.clz32(count))].join("|");
}
