import type { ServiceImpl } from "@connectrpc/connect";
import type { Price as PriceMessage, ModelService } from "#gen/helixmesh/control/v1/control_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import { type Price, setPrice } from "../prices/prices.ts";
import { checkModel, checkModelName } from "../registry/check-model.ts";
import {
  deleteModel,
  getModel,
  insertModelVersion,
  listModels,
  modelNotFound,
  removeAlias,
  setAlias,
} from "../registry/models.ts";
import type { Sql } from "../store/database.ts";
import { checkInstant, checkPresent } from "../checks/field.ts";
import { cutPage, readPage } from "../checks/page.ts";

export function modelService(sql: Sql, clock: Clock): ServiceImpl<typeof ModelService> {
  return {
    async createModel(request) {
      const model = checkPresent("model", request.model);
      checkModel(model);
      await sql.begin(async (transaction) => {
        await insertModelVersion(transaction, model);
        for (const [index, alias] of model.aliases.entries()) {
          await setAlias(transaction, { field: `model.aliases[${index}]`, alias, target: model.name, mayMove: false });
        }
        if (model.price) await setPrice(transaction, clock, model.name, readPrice("model.price", model.price));
      });
      return { model: await getModel(sql, clock, model.name) };
    },

    async getModel(request) {
      checkModelName("name", request.name);
      return { model: await getModel(sql, clock, request.name) };
    },

    async listModels(request) {
      const page = readPage(request);
      const { rows, nextPageToken } = cutPage(await listModels(sql, clock, page), page);
      return { models: rows, nextPageToken };
    },

    async deleteModel(request) {
      checkModelName("name", request.name);
      await deleteModel(sql, request.name);
      return {};
    },

    async setPrice(request) {
      checkModelName("model", request.model);
      const price = readPrice("price", checkPresent("price", request.price));
      await sql.begin(async (transaction) => {
        const [row] = await transaction`SELECT name FROM models WHERE name = ${request.model} FOR SHARE`;
        if (!row) throw modelNotFound("model", request.model);
        await setPrice(transaction, clock, request.model, price);
      });
      return { model: await getModel(sql, clock, request.model) };
    },

    async setAlias(request) {
      const { alias, model } = request;
      checkModelName("alias", alias);
      if (model === "") {
        await removeAlias(sql, alias);
        return {};
      }
      checkModelName("model", model);
      await sql.begin((transaction) => setAlias(transaction, { field: "alias", alias, target: model, mayMove: true }));
      return {};
    },
  };
}

function readPrice(field: string, price: PriceMessage): Price {
  const { promptNanosPerToken, cachedNanosPerToken, completionNanosPerToken } = price;
  const effectiveAtMs = checkInstant(`${field}.effective_at_ms`, price.effectiveAtMs);
  return { promptNanosPerToken, cachedNanosPerToken, completionNanosPerToken, effectiveAtMs };
}
