export { ControlLink } from "./control-link.ts";
export { StateFile } from "./state-file.ts";
