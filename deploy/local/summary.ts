import { relative } from "node:path";
import type { MeshAddresses } from "./mesh.ts";
import { projectRoot, type UpSettings } from "./settings.ts";
import type { StateFolder } from "./state-folder.ts";

export interface SummaryParts {
  readonly addresses: MeshAddresses;
  readonly state: StateFolder;
  readonly settings: UpSettings;
  readonly model: string;
  readonly seconds: number;
  readonly color: boolean;
}

const ask = "What is the capital of Japan?";

/** What runs where, and three things to paste that work as they are. */
export function summary(parts: SummaryParts): string {
  const { addresses, state, settings, model } = parts;
  const { router, controlPlane, nodeAgents } = addresses;
  const bold = style(parts.color, 1);
  const dim = style(parts.color, 2);
  const key = `$(cat ${quote(state.path("key"))})`;
  const row = (name: string, url: string, note: string) => `  ${name.padEnd(20)} ${url.padEnd(24)} ${dim(note)}`;
  const chat = JSON.stringify({ model, stream: true, messages: [{ role: "user", content: ask }] });
  const grpc = JSON.stringify({ model, chat: { messages: [{ role: "ROLE_USER", content: ask }] } });
  const cli = `node ${quote(`${projectRoot}/helixmesh.mjs`)}`;
  const stateFlag = settings.state === `${projectRoot}/.helixmesh` ? "" : ` --state ${quote(state.dir)}`;

  return `
${bold(`Helixmesh is up: "${model}" answers`)} ${dim(`(${parts.seconds.toFixed(1)} s, engine ${settings.engine})`)}

${row("router", router.url, `pid ${router.pid}, admin ${router.adminUrl}`)}
${row("control plane", controlPlane.url, `pid ${controlPlane.pid}, admin ${controlPlane.adminUrl}`)}
${nodeAgents.map((agent) => row(`node agent ${agent.name}`, agent.url, `pid ${agent.pid}, admin ${agent.adminUrl}`)).join("\n")}
  ${"state".padEnd(20)} ${state.dir}
  ${"API key".padEnd(20)} ${state.path("key")}

${bold("curl")}

  curl -N ${router.url}/v1/chat/completions \\
    -H "authorization: Bearer ${key}" \\
    -H "content-type: application/json" \\
    -d ${quote(chat)}

${bold("OpenAI SDK")} ${dim("(JavaScript; it is installed here already)")}

  cd ${quote(projectRoot)} && OPENAI_API_KEY="${key}" OPENAI_BASE_URL=${router.url}/v1 ${quote(nodeCommand())} --input-type=module -e '
    import OpenAI from "openai";
    const stream = await new OpenAI().chat.completions.create({
      model: ${JSON.stringify(model)}, stream: true, messages: [{ role: "user", content: ${JSON.stringify(ask)} }],
    });
    for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
    console.log();
  '

${bold("gRPC")} ${dim("(go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest)")}

  grpcurl -plaintext -H "authorization: Bearer ${key}" \\
    -d ${quote(grpc)} \\
    ${new URL(router.url).host} helixmesh.inference.v1.InferenceService/Generate

${dim(`Talk to it: ${cli} chat${stateFlag}    What was used: ${cli} usage${stateFlag}    Ctrl-C drains and stops.`)}
`;
}

/** The Node that runs this mesh, which may not be the one on the caller's path. */
function nodeCommand(): string {
  const inside = relative(projectRoot, process.execPath);
  return inside.startsWith("..") ? process.execPath : `./${inside}`;
}

/** One word for a POSIX shell. */
export function quote(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

function style(color: boolean, code: number): (text: string) => string {
  return (text) => (color ? `\x1b[${code}m${text}\x1b[0m` : text);
}
