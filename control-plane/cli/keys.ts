import { CreateKeyResponseSchema, type Key, KeySchema, KeyService } from "#gen/helixmesh/control/v1/control_pb.ts";
import type { Command, Input } from "./command.ts";
import { moment, parseMoment } from "./format.ts";
import { allPages } from "./pages.ts";
import type { Session } from "./session.ts";
import { table } from "./table.ts";
import { roles } from "./words.ts";

export const keyCommands: readonly Command[] = [
  { path: ["keys", "list"], summary: "List keys without their secrets, revoked ones included.", run: list },
  {
    path: ["keys", "create"],
    summary: "Make a key and print its secret, which is shown this once and stored nowhere.",
    positionals: [{ name: "NAME", doc: "For people." }],
    options: [
      { name: "role", value: "ROLE", doc: `What it may do: ${roles.all}. [inference]` },
      { name: "project", value: "NAME", doc: "The project that pays. [the first one]" },
      { name: "expires", value: "TIME", doc: "When it ends: 90d, or a date. [never]" },
    ],
    run: create,
  },
  {
    path: ["keys", "revoke"],
    summary: "End a key within seconds, everywhere.",
    positionals: [{ name: "KEY_ID", doc: "Its public part, as listed." }],
    async run(input, session) {
      await session.control(KeyService).revokeKey({ keyId: input.positional("KEY_ID") });
      session.confirm(`Revoked key ${input.positional("KEY_ID")}.`, { revoked: input.positional("KEY_ID") });
    },
  },
];

async function list(_input: Input, session: Session): Promise<void> {
  const client = session.control(KeyService);
  const nowMs = BigInt(Math.round(session.terminal.clock.nowMs()));
  const keys = await allPages(async (pageToken, pageSize) => {
    const page = await client.listKeys({ pageToken, pageSize });
    return { items: page.keys, nextPageToken: page.nextPageToken };
  });
  session.printList(KeySchema, keys, () =>
    table(
      keys,
      [
        { title: "id", cell: (k) => k.keyId },
        { title: "name", cell: (k) => k.name },
        { title: "role", cell: (k) => roles.word(k.role) },
        { title: "project", cell: (k) => k.project || "-" },
        { title: "created", cell: (k) => moment(k.createdAtMs) },
        { title: "state", cell: (k) => state(k, nowMs) },
      ],
      "No keys.",
    ),
  );
}

async function create(input: Input, session: Session): Promise<void> {
  const expires = input.text("expires");
  const answer = await session.control(KeyService).createKey({
    name: input.positional("NAME"),
    role: roles.parse("--role", input.text("role") ?? "inference"),
    project: input.text("project") ?? "",
    expiresAtMs: expires === undefined ? 0n : parseMoment("--expires", expires, session.terminal.clock.nowMs(), 1),
  });
  // The secret alone goes to stdout, so that `keys create ci > key` makes a key file.
  session.print(CreateKeyResponseSchema, answer, () => `${answer.secret}\n`);
  if (!session.json && session.terminal.interactive) {
    session.terminal.err(`Key ${answer.key?.keyId ?? ""} was made. Keep the line above: it cannot be shown again.\n`);
  }
}

function state(key: Key, nowMs: bigint): string {
  if (key.revokedAtMs !== 0n) return `revoked ${moment(key.revokedAtMs)}`;
  if (key.expiresAtMs === 0n) return "works";
  return `${key.expiresAtMs <= nowMs ? "expired" : "works until"} ${moment(key.expiresAtMs)}`;
}
