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
  if (canary !== undefined && canary !== "") {
    const canaries = deployments.filter((one) => one.routing?.canary === canary && !isShadow(one) && canTake(one));
    if (canaries.length > 0) return canaries[Math.floor(roll * canaries.length)];
  }
  const weighted = deployments.some((one) => !isShadow(one) && weightOf(one) > 0);
  const shareOf = (one: Deployment): number => {
    if (isShadow(one) || !canTake(one)) return 0;
    if (weighted) return weightOf(one);
    return (one.routing?.canary ?? "") === "" ? 1 : 0;
  };
  let left = 0;
  for (const deployment of deployments) left += shareOf(deployment);
  left *= roll;
  let last: Deployment | undefined;
  for (const deployment of deployments) {
    const share = shareOf(deployment);
    if (share === 0) continue;
    last = deployment;
    left -= share;
    if (left < 0) return deployment;
  }
  return last;
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
