import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["{kernel,router,node-agent,control-plane,bench,deploy}/**/*.test.ts"],
    globalSetup: ["control-plane/store/test-server.ts"],
    // Two cores: more workers would only make real servers wait for each other.
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
