export { fetchModel } from "./fetch.ts";
