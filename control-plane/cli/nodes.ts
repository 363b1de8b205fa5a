import type { Client } from "@connectrpc/connect";
import { type Node, NodeAdminService, NodeSchema } from "#gen/helixmesh/control/v1/control_pb.ts";
import type { Command, Input } from "./command.ts";
import { ago, bytes } from "./format.ts";
import { allPages } from "./pages.ts";
import type { Session } from "./session.ts";
import { table } from "./table.ts";

const node = { name: "NODE", doc: "The node's name or id." } as const;

export const nodeCommands: readonly Command[] = [
  { path: ["nodes", "list"], summary: "List nodes, offline ones included.", run: list },
  {
    path: ["nodes", "cordon"],
    summary: "Keep new replicas off a node; those it has go on.",
    positionals: [node],
    run: (input, session) => setCordon(input, session, true),
  },
  {
    path: ["nodes", "uncordon"],
    summary: "Let new replicas onto a node again.",
    positionals: [node],
    run: (input, session) => setCordon(input, session, false),
  },
  {
    path: ["nodes", "delete"],
    summary: "Forget an offline node.",
    positionals: [node],
    async run(input, session) {
      const client = session.control(NodeAdminService);
      const nodeId = await findNode(client, input.positional("NODE"));
      await client.deleteNode({ nodeId });
      session.confirm(`Deleted node ${input.positional("NODE")}.`, { deleted: nodeId });
    },
  },
];

async function list(_input: Input, session: Session): Promise<void> {
  const nodes = await listNodes(session.control(NodeAdminService));
  const nowMs = session.terminal.clock.nowMs();
  session.printList(NodeSchema, nodes, () =>
    table(
      nodes,
      [
        { title: "name", cell: (n) => n.name },
        { title: "state", cell: (n) => `${n.online ? "online" : "offline"}${n.cordoned ? ", cordoned" : ""}` },
        { title: "zone", cell: (n) => n.zone || "-" },
        { title: "link", cell: (n) => n.linkAddress },
        { title: "calls", right: true, cell: (n) => String(n.runningCalls) },
        { title: "cpu", right: true, cell: cpu },
        { title: "memory", right: true, cell: memory },
        { title: "gpus", cell: (n) => n.host?.gpus.map((gpu) => gpu.name).join(", ") || "-" },
        { title: "heartbeat", cell: (n) => ago(n.lastHeartbeatAtMs, nowMs) },
        { title: "id", cell: (n) => n.nodeId },
      ],
      "No nodes. Start an agent with `helixmesh node-agent`.",
    ),
  );
}

async function setCordon(input: Input, session: Session, cordoned: boolean): Promise<void> {
  const client = session.control(NodeAdminService);
  const nodeId = await findNode(client, input.positional("NODE"));
  await client.setNodeCordon({ nodeId, cordoned });
  const text = cordoned ? "is cordoned: no new replicas come to it" : "takes new replicas again";
  session.confirm(`Node ${input.positional("NODE")} ${text}.`, { nodeId, cordoned });
}

/** The id of a node named by its name or id. A name that is not listed is passed on, so that the server refuses it. */
async function findNode(client: Client<typeof NodeAdminService>, nameOrId: string): Promise<string> {
  const nodes = await listNodes(client);
  return nodes.find((n) => n.name === nameOrId || n.nodeId === nameOrId)?.nodeId ?? nameOrId;
}

function listNodes(client: Client<typeof NodeAdminService>): Promise<Node[]> {
  return allPages(async (pageToken, pageSize) => {
    const page = await client.listNodes({ pageToken, pageSize });
    return { items: page.nodes, nextPageToken: page.nextPageToken };
  });
}

function cpu(n: Node): string {
  if (!n.host) return "-";
  return n.load ? `${Math.round(n.load.cpuUtilization * 100)} % of ${n.host.cpuCount}` : String(n.host.cpuCount);
}

function memory(n: Node): string {
  if (!n.host) return "-";
  const total = bytes(n.host.memoryBytes);
  return n.load ? `${bytes(n.load.memoryUsedBytes)} of ${total}` : total;
}
