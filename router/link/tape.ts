const nothing = Buffer.alloc(0);

/** Longer responses have a length of more than one byte. */
const longestBytes = 0x7f;

/**
 * Where the responses of a call are copied to as they pass, each behind its length (a varint). Whoever passes them on is
 * the tape, and whoever keeps them gives it memory: between two tokens of a call all the others have been through the
 * processor's cache, and each further object that a token needs costs more than all that is done with it.
 */
export class Tape {
  /** Where the next one goes; -1: nothing is copied. */
  at = -1;
  /** Of what is free there. */
  limit = 0;
  memory: Buffer = nothing;

  /** False: there is no room, or it is a long one, and the keeper has to copy it. */
  copy(bytes: Uint8Array, start: number, end: number): boolean {
    if (this.at < 0) return true;
    const size = end - start;
    if (size > longestBytes || this.at + size >= this.limit) return false;
    const { memory } = this;
    let at = this.at;
    memory[at++] = size;
    // A few dozen bytes, for which a loop costs less than the call of a copy.
    for (let from = start; from < end; from++) memory[at++] = bytes[from] as number;
    this.at = at;
    return true;
  }

  /** Gives its memory to `other`, and copies nothing more. */
  handOver(other: Tape): void {
    other.at = this.at;
    other.limit = this.limit;
    other.memory = this.memory;
    this.reset(-1);
  }

  /** Without memory: 0 to ask for some with the next response, -1 to copy nothing. */
  reset(at: 0 | -1): void {
    this.at = at;
    this.limit = 0;
    this.memory = nothing;
  }
}
