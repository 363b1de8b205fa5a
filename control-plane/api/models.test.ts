import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DeploymentService, ModelService } from "#gen/helixmesh/control/v1/control_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type TestControlPlane, refusal, startTestControlPlane } from "./test-control-plane.ts";

let plane: TestControlPlane;
beforeAll(async () => {
  plane = await startTestControlPlane();
});
afterAll(() => plane.stop());

const models = () => plane.client(ModelService, plane.keys.operator);

describe("CreateModel", () => {
  test("stores name, version, source, hash, aliases and price, and GetModel finds it by alias", async () => {
    const sha256 = "ab".repeat(32);
    const created = await models().createModel({
      model: {
        name: "org/full",
        version: "2024",
        source: "file:///models/full.gguf",
        sha256,
        aliases: ["full", "default"],
        price: { promptNanosPerToken: 3n, cachedNanosPerToken: 1n, completionNanosPerToken: 9n },
      },
    });
    expect(created.model).toMatchObject({
      name: "org/full",
      version: "2024",
      source: "file:///models/full.gguf",
      sha256,
      aliases: ["default", "full"],
      price: { promptNanosPerToken: 3n, cachedNanosPerToken: 1n, completionNanosPerToken: 9n },
    });
    expect((await models().getModel({ name: "full" })).model).toEqual(created.model);
  });

  test("counts versions when none is given, and refuses one that exists", async () => {
    const model = { name: "versioned", source: "builtin:pocket" };
    expect((await models().createModel({ model })).model?.version).toBe("1");
    expect((await models().createModel({ model: { ...model, source: "" } })).model).toMatchObject({
      version: "2",
      source: "",
    });
    expect(await refusal(models().createModel({ model: { ...model, version: "1" } }))).toMatchObject({
      reason: Reason.ALREADY_EXISTS,
      field: "model.version",
    });
  });

  test("leaves no trace when one of its aliases is taken", async () => {
    await models().createModel({ model: { name: "owner", aliases: ["taken"] } });
    expect(
      await refusal(models().createModel({ model: { name: "latecomer", aliases: ["free", "taken"] } })),
    ).toMatchObject({
      reason: Reason.ALREADY_EXISTS,
      field: "model.aliases[1]",
    });
    expect(await refusal(models().getModel({ name: "latecomer" }))).toMatchObject({ reason: Reason.NOT_FOUND });
    expect(await refusal(models().getModel({ name: "free" }))).toMatchObject({ reason: Reason.NOT_FOUND });
  });

  test.each([
    ["model", {}, "is missing"],
    ["model.name", { model: { name: "" } }, "must not be empty"],
    ["model.name", { model: { name: "a b" } }, 'is "a b"; it takes a-z, A-Z, 0-9, dot'],
    ["model.name", { model: { name: "x".repeat(129) } }, "has 129 characters; at most 128"],
    ["model.source", { model: { name: "a", source: "http://x/y" } }, "builtin:NAME or file:///path/on/the/node"],
    ["model.sha256", { model: { name: "a", sha256: "12" } }, "64 lower-case hex digits"],
    ["model.aliases[0]", { model: { name: "a", aliases: ["a"] } }, "the model's own name"],
    ["model.price.effective_at_ms", { model: { name: "a", price: { effectiveAtMs: 1n << 60n } } }, "at most"],
    [
      "price.prompt_nanos_per_token",
      { model: { name: "a", price: { promptNanosPerToken: 2_000_000_000n } } },
      "1000000000",
    ],
  ])("refuses a bad %s", async (field, request, words) => {
    const refused = await refusal(models().createModel(request));
    expect(refused).toMatchObject({ reason: Reason.INVALID_REQUEST, field });
    expect(refused.message).toContain(words);
  });
});

describe("ListModels", () => {
  test("pages by name", async () => {
    for (const name of ["zz-1", "zz-2", "zz-3"]) await models().createModel({ model: { name } });
    const names: string[] = [];
    let pageToken = "";
    do {
      const page = await models().listModels({ pageSize: 2, pageToken });
      expect(page.models.length).toBeLessThanOrEqual(2);
      names.push(...page.models.map((model) => model.name));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    expect(names).toEqual([...new Set(names)].sort());
    expect(names).toEqual(expect.arrayContaining(["zz-1", "zz-2", "zz-3"]));
  });

  test("refuses a page that is too large and a token that is not its own", async () => {
    expect(await refusal(models().listModels({ pageSize: 1_001 }))).toMatchObject({
      reason: Reason.INVALID_REQUEST,
      field: "page_size",
      limit: "1000 entries",
    });
    expect(await refusal(models().listModels({ pageToken: "nonsense" }))).toMatchObject({ field: "page_token" });
  });
});

describe("DeleteModel", () => {
  test("refuses while a deployment uses the model, and names it", async () => {
    await models().createModel({ model: { name: "used" } });
    const deployments = plane.client(DeploymentService, plane.keys.operator);
    await deployments.putDeployment({ deployment: { name: "user", model: "used", engine: EngineKind.SIM } });
    const refused = await refusal(models().deleteModel({ name: "used" }));
    expect(refused).toMatchObject({ reason: Reason.CONFLICT, field: "name" });
    expect(refused.message).toContain("user");
    await deployments.deleteDeployment({ name: "user" });
    await models().createModel({ model: { name: "relier" } });
    const fallback = { name: "relier", model: "relier", engine: EngineKind.SIM, routing: { fallbackModels: ["used"] } };
    await deployments.putDeployment({ deployment: fallback });
    const needed = await refusal(models().deleteModel({ name: "used" }));
    expect(needed).toMatchObject({ reason: Reason.CONFLICT, field: "name" });
    expect(needed.message).toContain("a fallback of deployments: relier");
    await deployments.deleteDeployment({ name: "relier" });
    await models().deleteModel({ name: "used" });
    expect(await refusal(models().deleteModel({ name: "used" }))).toMatchObject({ reason: Reason.NOT_FOUND });
  });
});

describe("SetAlias", () => {
  test("points a name at a model, moves it and removes it", async () => {
    await models().createModel({ model: { name: "first" } });
    await models().createModel({ model: { name: "second" } });
    await models().setAlias({ alias: "best", model: "first" });
    expect((await models().getModel({ name: "best" })).model?.name).toBe("first");
    await models().setAlias({ alias: "best", model: "second" });
    expect((await models().getModel({ name: "best" })).model?.name).toBe("second");
    await models().setAlias({ alias: "best", model: "" });
    expect(await refusal(models().setAlias({ alias: "best", model: "" }))).toMatchObject({ reason: Reason.NOT_FOUND });
    expect(await refusal(models().setAlias({ alias: "first", model: "second" }))).toMatchObject({
      reason: Reason.ALREADY_EXISTS,
    });
    expect(await refusal(models().setAlias({ alias: "other", model: "nobody" }))).toMatchObject({
      reason: Reason.NOT_FOUND,
      field: "model",
    });
  });
});

describe("aliases of aliases", () => {
  test("lead to the model, are listed with it, and go with it", async () => {
    await models().createModel({ model: { name: "chained", aliases: ["near"] } });
    await models().setAlias({ alias: "far", model: "near" });
    const { model } = await models().getModel({ name: "far" });
    expect(model).toMatchObject({ name: "chained", aliases: ["far", "near"] });
    expect(await refusal(models().createModel({ model: { name: "far" } }))).toMatchObject({
      reason: Reason.ALREADY_EXISTS,
      message: expect.stringContaining('is an alias of "chained"') as string,
    });
    await models().deleteModel({ name: "chained" });
    expect(await refusal(models().getModel({ name: "far" }))).toMatchObject({ reason: Reason.NOT_FOUND });
    expect(await refusal(models().setAlias({ alias: "far", model: "" }))).toMatchObject({ reason: Reason.NOT_FOUND });
  });

  test("may not form a loop, and one that others point at stays", async () => {
    await models().createModel({ model: { name: "end", aliases: ["one"] } });
    await models().setAlias({ alias: "two", model: "one" });
    const refused = await refusal(models().setAlias({ alias: "one", model: "two" }));
    expect(refused).toMatchObject({ reason: Reason.INVALID_REQUEST, field: "model" });
    expect(refused.message).toContain("one → two → one");
    const kept = await refusal(models().setAlias({ alias: "one", model: "" }));
    expect(kept).toMatchObject({ reason: Reason.CONFLICT, field: "alias" });
    expect(kept.message).toContain('"one": two');
    await models().setAlias({ alias: "two", model: "" });
    await models().setAlias({ alias: "one", model: "" });
  });
});

describe("SetPrice", () => {
  test("changes the price that counts now, and leaves a later one for later", async () => {
    await models().createModel({ model: { name: "priced" } });
    expect((await models().getModel({ name: "priced" })).model?.price).toBe(undefined);
    await models().setPrice({ model: "priced", price: { promptNanosPerToken: 7n } });
    await models().setPrice({
      model: "priced",
      price: { promptNanosPerToken: 99n, effectiveAtMs: 4_000_000_000_000n },
    });
    expect((await models().getModel({ name: "priced" })).model?.price?.promptNanosPerToken).toBe(7n);
    expect(await refusal(models().setPrice({ model: "nobody", price: {} }))).toMatchObject({
      reason: Reason.NOT_FOUND,
    });
    expect(await refusal(models().setPrice({ model: "priced" }))).toMatchObject({ field: "price" });
  });
});

describe("as JSON over HTTP/1.1", () => {
  test("the same API answers", async () => {
    const created = await plane.json("helixmesh.control.v1.ModelService/CreateModel", {
      model: { name: "json-model", source: "builtin:pocket" },
    });
    expect(created).toMatchObject({ status: 200, body: { model: { name: "json-model", version: "1" } } });
  });

  test("a fault has its code, message and typed detail", async () => {
    const answer = await plane.json("helixmesh.control.v1.ModelService/GetModel", { name: "nobody" });
    expect(answer).toMatchObject({
      status: 404,
      body: { code: "not_found", message: 'no model "nobody" is registered' },
    });
    expect(JSON.stringify(answer.body)).toContain("helixmesh.error.v1.ErrorDetail");
  });

  test("malformed JSON, wrong types and unknown methods are the caller's fault", async () => {
    const path = "helixmesh.control.v1.ModelService/GetModel";
    expect((await plane.json(path, "{")).status).toBe(400);
    expect((await plane.json(path, { name: 5 })).status).toBe(400);
    expect((await plane.json("helixmesh.control.v1.ModelService/Nothing", {})).status).toBe(404);
  });
});
