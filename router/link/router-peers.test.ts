import { describe, expect, test } from "vitest";
import { routerPeers } from "./router-peers.ts";

describe("the routers that share the nodes", () => {
  test("are listed with their zones, and this one's zone is that of the list", () => {
    const { own, all } = routerPeers({ routerId: "b:80", zone: "", routers: ["a:80@eu-1a", "b:80@eu-1b", "c:80"] });
    expect(own).toEqual({ id: "b:80", zone: "eu-1b" });
    expect(all).toEqual([{ id: "a:80", zone: "eu-1a" }, own, { id: "c:80", zone: "" }]);
  });

  test("are nobody without a list", () => {
    expect(routerPeers({ routerId: "a", zone: "eu-1a", routers: [] })).toEqual({
      own: { id: "a", zone: "eu-1a" },
      all: [],
    });
  });

  test.each([
    ["lacks this router", { routers: ["b", "c@z"] }, /lacks this router, a:/],
    ["has one twice", { routers: ["a", "b@x", "b@y"] }, /has b twice/],
    ["has another zone for this one", { zone: "x", routers: ["a@y", "b"] }, /write a@x into the list/],
    ["has no zone for this one", { zone: "x", routers: ["a", "b"] }, /write a@x into the list/],
    ["has a zone of other characters", { routers: ["a@x y", "b"] }, /"a@x y".*letter or digit/],
  ])("are refused where the list %s", (_what, options, message) => {
    expect(() => routerPeers({ routerId: "a", zone: "", ...options })).toThrow(message);
  });

  test("are refused where this one's zone has other characters", () => {
    expect(() => routerPeers({ routerId: "a", zone: "x/y", routers: [] })).toThrow(/--zone is "x\/y"/);
  });
});
