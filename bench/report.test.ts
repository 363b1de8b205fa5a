import { expect, test } from "vitest";
import { withTables } from "./report.ts";

const empty = "# bench\n\n<!-- results -->\n<!-- /results -->\n";

test("tables go between markers that have nothing between them", () => {
  expect(withTables(empty, ["one", "two"])).toBe("# bench\n\n<!-- results -->\n\none\n\ntwo\n\n<!-- /results -->\n");
});

test("tables replace those of an earlier run", () => {
  const once = withTables(empty, ["one", "two"]);
  expect(withTables(once, ["three"])).toBe("# bench\n\n<!-- results -->\n\nthree\n\n<!-- /results -->\n");
  expect(withTables(once, [])).toBe(empty);
});

test("a text without markers is refused, so that a table is never lost unseen", () => {
  expect(() => withTables("# bench\n", ["one"])).toThrow("lost its <!-- results --> markers");
  expect(() => withTables("<!-- results -->\n", ["one"])).toThrow("lost its <!-- results --> markers");
});
