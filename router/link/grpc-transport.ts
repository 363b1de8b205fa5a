import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { type ChannelCredentials, Client, Metadata, credentials } from "@grpc/grpc-js";
import {
  type ConnectRequest,
  ConnectRequestSchema,
  type ConnectResponse,
  ConnectResponseSchema,
  LinkService,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import type { LinkEvents, LinkStream, LinkTarget, LinkTransport } from "./transport.ts";

/** Largest message of an agent: one embedding answer of 2,048 vectors fits several times. */
const maxMessageBytes = 256 * 1024 * 1024;
const path = `/${LinkService.typeName}/${LinkService.method.connect.name}`;

/**
 * The link over @grpc/grpc-js: one HTTP/2 connection and one stream an agent.
 * @param ca PEM certificates that sign the agents'; without it links are cleartext, for networks that are private.
 */
export function createGrpcLinkTransport(ca?: Buffer): LinkTransport {
  const channelCredentials = ca ? credentials.createSsl(ca) : credentials.createInsecure();
  return (target, events) => openStream(channelCredentials, target, events);
}

function openStream(channelCredentials: ChannelCredentials, target: LinkTarget, events: LinkEvents): LinkStream {
  // A client of its own for each attempt: the link has its own back-off and must not inherit a shared one.
  const client = new Client(target.address, channelCredentials, {
    "grpc.use_local_subchannel_pool": 1,
    "grpc.max_receive_message_length": maxMessageBytes,
    "grpc.max_send_message_length": maxMessageBytes,
    "grpc.enable_retries": 0,
    "grpc.enable_http_proxy": 0,
  });
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${target.token}`);
  const stream = client.makeBidiStreamRequest<ConnectRequest, ConnectResponse>(
    path,
    (message) => Buffer.from(toBinary(ConnectRequestSchema, message)),
    (bytes) => fromBinary(ConnectResponseSchema, bytes, { readUnknownFields: false }),
    metadata,
  );
  let ended = false;
  function end(cause: Error | undefined): void {
    if (ended) return;
    ended = true;
    client.close();
    events.onEnd(cause);
  }
  stream.on("data", (message: ConnectResponse) => {
    if (!ended) events.onMessage(message);
  });
  stream.on("error", end);
  stream.on("end", () => end(undefined));
  return {
    send: (message) => void stream.write(message),
    close() {
      stream.cancel();
      end(undefined);
    },
  };
}
