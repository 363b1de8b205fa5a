import { type Model, ModelSchema, ModelService } from "#gen/helixmesh/control/v1/control_pb.ts";
import type { Command, Input, Option } from "./command.ts";
import { UsageError } from "./command.ts";
import { moment, parseMoment, parsePricePerMillion, pricePerMillion } from "./format.ts";
import { allPages } from "./pages.ts";
import type { Session } from "./session.ts";
import { details, table } from "./table.ts";

const name = { name: "NAME", doc: "The model's name." } as const;
const priceOptions: readonly Option[] = [
  { name: "prompt", value: "USD", doc: "Dollars per million prompt tokens, up to three decimals." },
  { name: "cached", value: "USD", doc: "Dollars per million prompt tokens found in the cache. [as --prompt]" },
  { name: "completion", value: "USD", doc: "Dollars per million generated tokens." },
];

export const modelCommands: readonly Command[] = [
  { path: ["models", "list"], summary: "List the registered models.", run: list },
  {
    path: ["models", "get"],
    summary: "Show one model.",
    positionals: [{ name: "NAME", doc: "Name or alias." }],
    async run(input, session) {
      const answer = await session.control(ModelService).getModel({ name: input.positional("NAME") });
      printModel(session, answer.model);
    },
  },
  {
    path: ["models", "create"],
    summary: "Register a model, or a new version of one.",
    positionals: [name],
    options: [
      { name: "source", value: "SOURCE", doc: '"builtin:pocket" or "file:///path/on/the/node".', required: true },
      { name: "sha256", value: "HEX", doc: "SHA-256 of the file; unchecked without it." },
      { name: "version", value: "LABEL", doc: "Label of this version." },
      { name: "alias", value: "NAME", doc: "Another name.", multiple: true },
      ...priceOptions,
    ],
    run: create,
  },
  {
    path: ["models", "delete"],
    summary: "Remove a model that no deployment uses.",
    positionals: [name],
    async run(input, session) {
      await session.control(ModelService).deleteModel({ name: input.positional("NAME") });
      session.confirm(`Deleted model ${input.positional("NAME")}.`, { deleted: input.positional("NAME") });
    },
  },
  {
    path: ["models", "set-price"],
    summary: "Set what a model's tokens cost from now or a later moment on; earlier usage keeps its price.",
    positionals: [name],
    options: [...priceOptions, { name: "from", value: "TIME", doc: "When it starts to count. [now]" }],
    async run(input, session) {
      const price = readPrice(input, session);
      if (!price) throw new UsageError("--prompt USD and --completion USD are required.");
      const answer = await session.control(ModelService).setPrice({ model: input.positional("NAME"), price });
      printModel(session, answer.model);
    },
  },
  {
    path: ["models", "alias"],
    summary: "Point another name at a model or at another alias, or remove it.",
    positionals: [
      { name: "ALIAS", doc: "The other name." },
      { name: "MODEL", doc: "The model's name, or another alias.", optional: true },
    ],
    options: [{ name: "remove", doc: "Remove the alias." }],
    run: alias,
  },
];

async function list(_input: Input, session: Session): Promise<void> {
  const client = session.control(ModelService);
  const models = await allPages(async (pageToken, pageSize) => {
    const page = await client.listModels({ pageToken, pageSize });
    return { items: page.models, nextPageToken: page.nextPageToken };
  });
  session.printList(ModelSchema, models, () =>
    table(
      models,
      [
        { title: "name", cell: (m) => m.name },
        { title: "version", cell: (m) => m.version },
        { title: "aliases", cell: (m) => m.aliases.join(", ") || "-" },
        {
          title: "prompt",
          right: true,
          cell: (m) => (m.price ? pricePerMillion(m.price.promptNanosPerToken) : "no price"),
        },
        {
          title: "completion",
          right: true,
          cell: (m) => (m.price ? pricePerMillion(m.price.completionNanosPerToken) : "no price"),
        },
        { title: "source", cell: (m) => m.source || "-" },
      ],
      "No models. Register one with `helixmesh models create`.",
    ),
  );
}

async function create(input: Input, session: Session): Promise<void> {
  const price = readPrice(input, session);
  const answer = await session.control(ModelService).createModel({
    model: {
      name: input.positional("NAME"),
      version: input.text("version") ?? "",
      source: input.text("source") ?? "",
      sha256: input.text("sha256") ?? "",
      aliases: [...input.list("alias")],
      ...(price ? { price } : {}),
    },
  });
  printModel(session, answer.model);
}

async function alias(input: Input, session: Session): Promise<void> {
  const [other, model, remove] = [input.positional("ALIAS"), input.positional("MODEL"), input.flag("remove")];
  if (remove === (model !== "")) throw new UsageError("Give either MODEL or --remove.");
  await session.control(ModelService).setAlias({ alias: other, model });
  session.confirm(remove ? `Removed alias ${other}.` : `${other} now means ${model}.`, { alias: other, model });
}

/** Undefined when no price is given; half a price is a mistake. */
function readPrice(input: Input, session: Session) {
  const [prompt, completion, cached] = [input.text("prompt"), input.text("completion"), input.text("cached")];
  if (prompt === undefined && completion === undefined && cached === undefined) return undefined;
  if (prompt === undefined || completion === undefined)
    throw new UsageError("A price needs --prompt USD and --completion USD.");
  const from = input.text("from");
  return {
    promptNanosPerToken: parsePricePerMillion("--prompt", prompt),
    cachedNanosPerToken: parsePricePerMillion("--cached", cached ?? prompt),
    completionNanosPerToken: parsePricePerMillion("--completion", completion),
    effectiveAtMs: from === undefined ? 0n : parseMoment("--from", from, session.terminal.clock.nowMs(), 1),
  };
}

function printModel(session: Session, model: Model | undefined): void {
  if (!model) throw new Error("The control plane answered without a model.");
  const { price } = model;
  session.print(ModelSchema, model, () =>
    details([
      ["name", model.name],
      ["version", model.version],
      ["source", model.source || "-"],
      ["sha256", model.sha256 || "unchecked"],
      ["aliases", model.aliases.join(", ") || "-"],
      ["created", moment(model.created * 1_000n)],
      ["prompt price", price ? pricePerMillion(price.promptNanosPerToken) : "none: costs are unknown"],
      ["cached price", price ? pricePerMillion(price.cachedNanosPerToken) : "none: costs are unknown"],
      ["completion price", price ? pricePerMillion(price.completionNanosPerToken) : "none: costs are unknown"],
    ]),
  );
}
