// Shared by the k6 scripts. Settings come as environment: ROUTER_URL, KEY, VUS, CALLS.
export const router = __ENV.ROUTER_URL || "http://127.0.0.1:8080";
export const key = __ENV.KEY;
export const authorization = `Bearer ${key}`;

export const options = {
  scenarios: {
    calls: {
      executor: "shared-iterations",
      vus: Number(__ENV.VUS || 32),
      iterations: Number(__ENV.CALLS || 500),
      maxDuration: "2m",
    },
  },
  thresholds: { checks: ["rate==1"] },
  summaryTrendStats: ["avg", "p(50)", "p(99)", "max"],
};

export const messages = (text) => [{ role: "user", content: text }];
