// `npm start`: installs what is missing, then is `helixmesh up` with the same arguments.
import process from "node:process";
import { ensureInstalled } from "./install.mjs";

await ensureInstalled();
process.argv.splice(2, 0, "up");
await import("../../helixmesh.mjs");
