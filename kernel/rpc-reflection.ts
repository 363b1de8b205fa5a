import { type DescFile, type DescMessage, type DescService, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code, type ConnectRouter } from "@connectrpc/connect";
import { ServerReflection } from "#gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "#gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { takeMessages } from "#kernel/rpc-request.ts";

/**
 * Server reflection, v1 and v1alpha (https://github.com/grpc/grpc/blob/master/doc/server-reflection.md), from the
 * descriptors that the generated code carries. Open to callers without a key: the contract is no secret.
 */
export function addReflection(router: ConnectRouter, services: readonly DescService[], drainSignal: AbortSignal): void {
  const index = reflectionIndex([...services, ServerReflection, ServerReflectionAlpha]);
  const options = { interceptors: [takeMessages], requestGate: () => {}, shutdownSignal: drainSignal };
  async function* answer<R extends Request>(requests: AsyncIterable<R>) {
    for await (const request of requests) {
      yield {
        validHost: request.host,
        originalRequest: request,
        messageResponse: index.answer(request.messageRequest),
      };
    }
  }
  router.service(ServerReflection, { serverReflectionInfo: (requests) => answer(requests) }, options);
  router.service(ServerReflectionAlpha, { serverReflectionInfo: (requests) => answer(requests) }, options);
}

/** What both versions of the protocol ask. */
type Question =
  | { readonly case: "fileByFilename" | "fileContainingSymbol"; readonly value: string }
  | { readonly case: "allExtensionNumbersOfType" | "listServices"; readonly value: string }
  | {
      readonly case: "fileContainingExtension";
      readonly value: { readonly containingType: string; readonly extensionNumber: number };
    }
  | { readonly case: undefined; readonly value?: undefined };

interface Request {
  readonly host: string;
  readonly messageRequest: Question;
}

function reflectionIndex(services: readonly DescService[]) {
  const files = new Map<string, DescFile>();
  const symbols = new Map<string, DescFile>();
  const messages = new Set<string>();
  for (const service of services) indexFile(service.file);

  function indexFile(file: DescFile): void {
    if (files.has(file.proto.name)) return;
    files.set(file.proto.name, file);
    for (const { typeName, methods } of file.services) {
      symbols.set(typeName, file);
      for (const method of methods) symbols.set(`${typeName}.${method.name}`, file);
    }
    for (const message of file.messages) indexMessage(message);
    for (const { typeName } of [...file.enums, ...file.extensions]) symbols.set(typeName, file);
    for (const dependency of file.dependencies) indexFile(dependency);
  }

  function indexMessage(message: DescMessage): void {
    messages.add(message.typeName);
    symbols.set(message.typeName, message.file);
    for (const { name } of message.fields) symbols.set(`${message.typeName}.${name}`, message.file);
    for (const { typeName } of [...message.nestedEnums, ...message.nestedExtensions])
      symbols.set(typeName, message.file);
    for (const nested of message.nestedMessages) indexMessage(nested);
  }

  function answer(question: Question) {
    switch (question.case) {
      case "listServices": {
        const service = [...new Set(services.map(({ typeName }) => typeName))].sort().map((name) => ({ name }));
        return { case: "listServicesResponse" as const, value: { service } };
      }
      case "fileByFilename": {
        const file = files.get(question.value);
        return file ? withDependencies(file) : failure(Code.NotFound, `no file ${question.value}`);
      }
      case "fileContainingSymbol": {
        const file = symbols.get(question.value.replace(/^\./, ""));
        return file ? withDependencies(file) : failure(Code.NotFound, `no symbol ${question.value}`);
      }
      case "allExtensionNumbersOfType": {
        // None of our files extends a message.
        if (!messages.has(question.value)) return failure(Code.NotFound, `no message ${question.value}`);
        const value = { baseTypeName: question.value, extensionNumber: [] };
        return { case: "allExtensionNumbersResponse" as const, value };
      }
      case "fileContainingExtension": {
        const { containingType, extensionNumber } = question.value;
        return failure(Code.NotFound, `no extension ${extensionNumber} of ${containingType}`);
      }
      case undefined:
        return failure(Code.InvalidArgument, "the request names nothing to look up");
    }
  }

  return { answer };
}

/** The file asked for first, as grpc-go and its clients have it, then each dependency once, breadth first. */
function withDependencies(file: DescFile) {
  const ordered = new Set([file]);
  for (const next of ordered) for (const dependency of next.dependencies) ordered.add(dependency);
  const fileDescriptorProto = [...ordered].map(({ proto }) => toBinary(FileDescriptorProtoSchema, proto));
  return { case: "fileDescriptorResponse" as const, value: { fileDescriptorProto } };
}

function failure(errorCode: Code, errorMessage: string) {
  return { case: "errorResponse" as const, value: { errorCode, errorMessage } };
}
