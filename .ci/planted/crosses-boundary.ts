// Planted: a service reaches into another one.
import { authenticate } from "../../router/admission/authenticate.ts";

export const planted = authenticate;
