import { type Server, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { createCors } from "./cors.ts";

let server: Server | undefined;
afterEach(() => {
  server?.close();
});

async function serve(origins: readonly string[]): Promise<string> {
  const cors = createCors(origins);
  server = createServer((request, response) => {
    if (!cors(request, response)) response.end("answer");
  });
  await new Promise<void>((resolve) => server?.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const preflight = (origin: string): RequestInit => ({
  method: "OPTIONS",
  headers: {
    origin,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
  },
});

describe("cors", () => {
  test("adds nothing when no origin is configured", async () => {
    const answer = await fetch(await serve([]), { headers: { origin: "https://a.example" } });
    expect(answer.headers.get("access-control-allow-origin")).toBeNull();
    expect(await answer.text()).toBe("answer");
  });

  test("answers the preflight of an allowed origin with what it asked for", async () => {
    const answer = await fetch(await serve(["https://a.example/"]), preflight("https://a.example"));
    expect(answer.status).toBe(204);
    expect(answer.headers.get("access-control-allow-origin")).toBe("https://a.example");
    expect(answer.headers.get("access-control-allow-methods")).toContain("POST");
    expect(answer.headers.get("access-control-allow-headers")).toBe("authorization,content-type,x-stainless-os");
    expect(answer.headers.get("vary")).toBe("origin");
  });

  test("refuses the preflight of another origin and says which setting allows it", async () => {
    const answer = await fetch(await serve(["https://a.example"]), preflight("https://b.example"));
    expect(answer.status).toBe(403);
    expect(answer.headers.get("access-control-allow-origin")).toBeNull();
    expect(await answer.text()).toContain("cors-origins");
  });

  test("lets a page read the request id and the gRPC status", async () => {
    const answer = await fetch(await serve(["*"]), { headers: { origin: "https://any.example" } });
    expect(answer.headers.get("access-control-allow-origin")).toBe("*");
    const exposed = answer.headers.get("access-control-expose-headers")?.toLowerCase();
    expect(exposed).toContain("x-request-id");
    expect(exposed).toContain("grpc-status");
    expect(await answer.text()).toBe("answer");
  });
});
