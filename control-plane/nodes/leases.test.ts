import { create } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { RegisterRequestSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type TestDatabase, openTestDatabase } from "../store/test-database.ts";
import { Leases } from "./leases.ts";
import { registerNode } from "./register.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await openTestDatabase();
});
afterAll(() => database.close());

async function register(name: string): Promise<string> {
  const request = create(RegisterRequestSchema, { name, linkAddress: "h:1", engines: [EngineKind.SIM] });
  return (await registerNode(database.sql, request, 1_000)).nodeId;
}

test("many renewals at once are all answered, the unknown with NOT_FOUND", async () => {
  const ids = await Promise.all(Array.from({ length: 20 }, (_, index) => register(`n${index}`)));
  const leases = new Leases(database.sql, 60_000);
  const answers = await Promise.allSettled([...ids, "node_unknown", ...ids].map((id) => leases.renew(id, 1)));
  const refused = answers.filter((answer) => answer.status === "rejected");
  expect(answers).toHaveLength(41);
  expect(refused).toMatchObject([{ reason: { reason: Reason.NOT_FOUND } }]);
  const [row] = await database.sql<{ renewed: bigint }[]>`
    SELECT count(*) AS renewed FROM nodes WHERE lease_expires_at > now() + interval '30 seconds'`;
  expect(row?.renewed).toBe(20n);
});

test("a renewal of a live lease is not notified, and one that brings a node back is", async () => {
  const nodeId = await register("quiet");
  const leases = new Leases(database.sql, 60_000);
  const heard: string[] = [];
  const stop = await database.onChanged((table) => void heard.push(table));
  await leases.renew(nodeId, 1);
  await leases.renew(nodeId, 2);
  // A notice that comes after all of the above ends the wait.
  const marker = Promise.withResolvers<void>();
  const stopMarker = await database.onChanged((table) => void (table === "projects" && marker.resolve()));
  await database.sql`DELETE FROM projects WHERE id = 'nobody'`;
  await marker.promise;
  expect(heard).toEqual(["projects"]);
  const returned = Promise.withResolvers<void>();
  await database.sql`UPDATE nodes SET online = false WHERE id = ${nodeId}`;
  const stopReturned = await database.onChanged(() => returned.resolve());
  await leases.renew(nodeId, 0);
  await returned.promise;
  for (const end of [stop, stopMarker, stopReturned]) end();
});
