import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { isZone, zoneRange } from "#kernel/zone.ts";

/** One of the routers that share the nodes. */
export interface RouterPeer {
  readonly id: string;
  /** Failure zone; empty: unknown. */
  readonly zone: string;
}

export interface RouterPeers {
  readonly own: RouterPeer;
  /** The same in each router, this one among them; empty: this router knows of no others. */
  readonly all: readonly RouterPeer[];
}

export interface RouterPeersOptions {
  readonly routerId: string;
  /** Empty: what the list says. */
  readonly zone: string;
  /** ID or ID@ZONE, each. */
  readonly routers: readonly string[];
}

/** @throws MeshError when the list lacks this router, has one twice, or names another zone for this one than `zone` */
export function routerPeers({ routerId, zone, routers }: RouterPeersOptions): RouterPeers {
  if (!isZone(zone)) throw wrong("zone", `--zone is ${JSON.stringify(zone)}; it takes ${zoneRange}.`);
  const all = routers.map(readPeer);
  const twice = all.find(({ id }, at) => all.findIndex((other) => other.id === id) !== at);
  if (twice) throw wrong("routers", `--routers has ${twice.id} twice: list the --router-id of every router once.`);
  const listed = all.find(({ id }) => id === routerId);
  if (all.length > 0 && !listed) {
    // Each would count on another to link to this one's share.
    const message = `--routers is ${routers.join(",")} and lacks this router, ${routerId}: list the --router-id of every router.`;
    throw wrong("routers", message);
  }
  if (listed && zone !== "" && listed.zone !== zone) {
    const message = `--routers has ${routerId} in the zone ${JSON.stringify(listed.zone)}, and --zone is ${JSON.stringify(zone)}: write ${routerId}@${zone} into the list of every router.`;
    throw wrong("routers", message);
  }
  return { own: listed ?? { id: routerId, zone }, all };
}

function readPeer(text: string): RouterPeer {
  const at = text.lastIndexOf("@");
  if (at < 0) return { id: text, zone: "" };
  const zone = text.slice(at + 1);
  if (!isZone(zone)) {
    throw wrong("routers", `--routers has ${JSON.stringify(text)}; what follows the last @ is a zone: ${zoneRange}.`);
  }
  return { id: text.slice(0, at), zone };
}

function wrong(field: string, message: string): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, message, { field });
}
