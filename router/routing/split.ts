import type { Deployment } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";

export interface SplitAsk {
  /** Value of the header x-helixmesh-canary. */
  readonly canary: string | undefined;
  /** In [0, 1): by chance, or of the session, whose calls then stay on one deployment. */
  readonly roll: number;
}

/**
 * Which of a model's deployments takes the call, of those that `canTake` (type.v1 DeploymentRouting): a canary of this
 * value if there is one, else by weight. One that cannot take the call leaves its share to the others; one whose weight
 * is 0 where others have one never gets a share. Pure.
 */
export function chooseDeployment(
  deployments: readonly Deployment[],
  { canary, roll }: SplitAsk,
  canTake: (deployment: Deployment) => boolean,
): Deployment | undefined {
  const able = deployments.filter((deployment) => !isShadow(deployment) && canTake(deployment));
  if (canary !== undefined && canary !== "") {
    const canaries = able.filter(({ routing }) => routing?.canary === canary);
    if (canaries.length > 0) return canaries[Math.floor(roll * canaries.length)];
  }
  const weighted = deployments.some((deployment) => !isShadow(deployment) && weightOf(deployment) > 0);
  const sharing = able.filter((deployment) =>
    weighted ? weightOf(deployment) > 0 : (deployment.routing?.canary ?? "") === "",
  );
  const total = sharing.reduce((sum, deployment) => sum + (weighted ? weightOf(deployment) : 1), 0);
  let left = roll * total;
  for (const deployment of sharing) {
    left -= weighted ? weightOf(deployment) : 1;
    if (left < 0) return deployment;
  }
  return sharing.at(-1);
}

/** The deployments that get a copy of a call; `roll` gives a number in [0, 1) for each. */
export function chooseShadows(deployments: readonly Deployment[], roll: () => number): readonly Deployment[] {
  return deployments.filter((deployment) => isShadow(deployment) && roll() * 100 < shadowPercent(deployment));
}

/** The models to ask when none of these deployments can take a call, in order, each once. */
export function fallbackModels(deployments: readonly Deployment[]): readonly string[] {
  return [...new Set(deployments.flatMap(({ routing }) => routing?.fallbackModels ?? []))].slice(0, mostFallbacks);
}

const mostFallbacks = 8;

function isShadow(deployment: Deployment): boolean {
  return shadowPercent(deployment) > 0;
}

function shadowPercent({ routing }: Deployment): number {
  return routing?.shadowPercent ?? 0;
}

function weightOf({ routing }: Deployment): number {
  return routing?.weight ?? 0;
}
