import { Template } from "@huggingface/jinja";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type ChatInput,
  type Message,
  Role,
  type Tool,
  ToolChoice_Mode,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { ControlTexts, type Guard, type TextPart } from "./control-texts.ts";

export interface TemplateSource {
  /** Jinja, from the model's file; empty when it has none. */
  readonly text: string;
  readonly bosText: string;
  readonly eosText: string;
  /** Texts of the vocabulary's control tokens. */
  readonly controlTexts: readonly string[];
}

/** Renders conversations with the model's own template, in the shapes that Hugging Face templates expect. */
export class ChatTemplate {
  readonly #template: Template | undefined;
  readonly #source: TemplateSource;
  readonly #controls: ControlTexts;
  /** The template mentions tools; one that does not would leave them out silently. */
  readonly rendersTools: boolean;

  constructor(source: TemplateSource) {
    this.#source = source;
    this.#controls = new ControlTexts(source.controlTexts);
    this.#template = source.text === "" ? undefined : new Template(source.text);
    this.rendersTools = /\btools\b/.test(source.text);
  }

  get exists(): boolean {
    return this.#template !== undefined;
  }

  /**
   * Only what the template itself writes comes in parts with control tokens. Tools are left out when none may be called,
   * so that the model does not try.
   */
  render(chat: ChatInput): TextPart[] {
    if (!this.#template) {
      throw unsupported("This model's file has no chat template; send chat.prompt as text in prompt instead.", "chat");
    }
    if (chat.messages.length === 0)
      throw invalid("chat.messages is empty; send at least one message.", "chat.messages");
    const offered = chat.toolChoice?.mode === ToolChoice_Mode.NONE ? [] : chat.tools;
    if (offered.length > 0 && !this.rendersTools) {
      throw unsupported("This model's chat template knows no tools; leave chat.tools out.", "chat.tools");
    }
    const guard = this.#controls.guard();
    const variables = {
      messages: chat.messages.map((message, index) => messageOf(message, index, guard)),
      ...(offered.length > 0 ? { tools: offered.map((tool, index) => toolOf(tool, index, guard)) } : {}),
      add_generation_prompt: true,
      bos_token: this.#source.bosText,
      eos_token: this.#source.eosText,
    };
    try {
      return guard.cut(this.#template.render(variables));
    } catch (error) {
      const why = error instanceof Error ? error.message : "it failed";
      throw new MeshError(Reason.INVALID_REQUEST, `The model's chat template refuses chat.messages: ${why}`, {
        field: "chat.messages",
        cause: error,
      });
    }
  }
}

function messageOf(message: Message, index: number, guard: Guard): Record<string, unknown> {
  const field = `chat.messages[${index}]`;
  return {
    role: roleOf(message.role, `${field}.role`),
    content: guard.text(message.content),
    ...(message.name === "" ? {} : { name: guard.text(message.name) }),
    ...(message.toolCallId === "" ? {} : { tool_call_id: guard.text(message.toolCallId) }),
    ...(message.toolCalls.length === 0
      ? {}
      : {
          tool_calls: message.toolCalls.map((call, at) => ({
            id: guard.text(call.id),
            type: "function",
            // Most templates want the arguments as a value, not as the text in which the API carries them.
            function: {
              name: guard.text(call.name),
              arguments: guard.value(parsed(call.argumentsJson || "{}", `${field}.tool_calls[${at}].arguments_json`)),
            },
          })),
        }),
  };
}

function roleOf(role: Role, field: string): string {
  switch (role) {
    case Role.SYSTEM:
      return "system";
    case Role.USER:
      return "user";
    case Role.ASSISTANT:
      return "assistant";
    case Role.TOOL:
      return "tool";
    default:
      throw invalid(`${field} is ${role}; use system, user, assistant or tool.`, field);
  }
}

function toolOf(tool: Tool, index: number, guard: Guard): Record<string, unknown> {
  const parameters =
    tool.parametersJson === ""
      ? { type: "object", properties: {} }
      : parsed(tool.parametersJson, `chat.tools[${index}].parameters_json`);
  const { name, description } = tool;
  return { type: "function", function: guard.value({ name, description, parameters }) };
}

function parsed(json: string, field: string): unknown {
  try {
    return JSON.parse(json) as unknown;
  } catch (error) {
    throw new MeshError(Reason.INVALID_REQUEST, `${field} is no JSON; send a JSON object as text.`, {
      field,
      cause: error,
    });
  }
}

function invalid(message: string, field: string): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, message, { field });
}

function unsupported(message: string, field: string): MeshError {
  return new MeshError(Reason.UNSUPPORTED_PARAMETER, message, { field });
}
