import { describe, expect, test } from "vitest";
import { chooseAccount } from "./account.ts";
import { explainFailure } from "./server-log.ts";

const passwd = [
  "root:x:0:0:root:/root:/bin/bash",
  "alice:x:1000:1000::/home/alice:/bin/bash",
  "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
].join("\n");

describe("the server's user", () => {
  test("is ours unless we are root", () => {
    expect(chooseAccount(1000, { uid: 7, gid: 7 }, passwd)).toBeUndefined();
    expect(chooseAccount(undefined, undefined, "")).toBeUndefined();
  });

  test("is nobody under root, and helixmesh where there is one", () => {
    expect(chooseAccount(0, undefined, passwd)).toEqual({ name: "nobody", uid: 65534, gid: 65534 });
    const withOwn = `${passwd}\nhelixmesh:x:990:991::/:/bin/false`;
    expect(chooseAccount(0, undefined, withOwn)).toEqual({ name: "helixmesh", uid: 990, gid: 991 });
  });

  test("is the owner of data that is there already", () => {
    expect(chooseAccount(0, { uid: 1000, gid: 5 }, passwd)).toEqual({ name: "alice", uid: 1000, gid: 1000 });
    expect(chooseAccount(0, { uid: 4711, gid: 5 }, passwd)).toEqual({ name: "user 4711", uid: 4711, gid: 5 });
  });

  test("is any other where there is no nobody; without any, the message says what to do", () => {
    expect(chooseAccount(0, undefined, "root:x:0:0::/:\nalice:x:1000:1000::/:")).toMatchObject({ name: "alice" });
    expect(() => chooseAccount(0, undefined, "root:x:0:0::/:")).toThrow(/useradd --system helixmesh.*DATABASE_URL/);
  });
});

describe("a start that failed", () => {
  const explained: readonly (readonly [string, string, RegExp])[] = [
    [
      "a full disk",
      'FATAL:  could not write to file "pg_wal/xlogtemp.31": No space left on device',
      /disk that holds \/d is full.*Free some space/,
    ],
    [
      "another version",
      "FATAL:  database files are incompatible with server",
      /another PostgreSQL version.*move the folder away/,
    ],
    ["open permissions", 'FATAL:  data directory "/d" has invalid permissions', /may not use \/d.*mode 0700/],
    ["damage", "PANIC:  could not locate a valid checkpoint record at 0/1", /is damaged.*Restore it from a backup/],
    [
      "a user without a name",
      "initdb: error: could not look up effective user ID 4711: user does not exist",
      /not in \/etc\/passwd/,
    ],
    [
      "anything else",
      'FATAL:  unrecognized configuration parameter "x"',
      /did not start in \/d: unrecognized configuration parameter "x"/,
    ],
  ];
  for (const [what, line, expected] of explained) {
    test(`by ${what} says so, and what to do`, () => {
      expect(explainFailure(["LOG:  starting", line, "LOG:  database system is shut down"], "/d")).toMatch(expected);
    });
  }
});
