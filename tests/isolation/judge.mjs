// Reads questions as JSON lines and answers each with a line: what IAM decides on requests under the policies they name.
// {"policies": {name: document}, "requests": [{"principal", "action", "resource", "account", "context", "identity": [names], "attached": name, "boundary": name}]}
import { createInterface } from 'node:readline'
import { createValidatedPolicy, validateIdentityPolicy, validateResourcePolicy } from '@cloud-copilot/iam-policy'
import { runSimulation, runUnsafeSimulation } from '@cloud-copilot/iam-simulate'

// Whether AWS has the action, on such a resource, with these condition keys, costs the most to tell, and is told once of each such shape.
const known = new Set()

function shapeOf({ action, resource, context }) {
  const [start, ...deeper] = resource.split('/')
  const kind = start.startsWith('arn:aws:s3:') ? [start, deeper.length > 0] : [start, deeper.length]
  return JSON.stringify([action, kind, Object.entries(context).map(([key, value]) => [key, Array.isArray(value)])])
}

async function decide(request, simulation) {
  const shape = shapeOf(request)
  if (known.has(shape)) return { decision: runUnsafeSimulation(simulation, {}) }
  const said = await runSimulation(simulation, {})
  const message = said.resultType === 'error' ? said.errors.message : ''
  const ignored = said.resultType === 'single' ? said.result.ignoredContextKeys : []
  // The action acts on no such resource, or knows no such condition key.
  if (['no.resource.types', 'must.use.wildcard'].includes(message) || said.resultType === 'wildcard' || ignored.length)
    return { decision: 'Unknown' }
  if (message) return { error: JSON.stringify(said.errors) }
  if (request.resource !== '*') known.add(shape)
  return { decision: said.overallResult }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { policies, requests } = JSON.parse(line)
  const checked = new Map()
  const policy = (name, check) => {
    if (!checked.has(name)) checked.set(name, createValidatedPolicy(policies[name], check, { name }))
    return checked.get(name)
  }
  const answers = []
  for (const request of requests) {
    const simulation = {
      request: {
        principal: request.principal,
        action: request.action,
        resource: { resource: request.resource, accountId: request.account },
        contextVariables: request.context,
      },
      identityPolicies: request.identity.map((name) => ({ name, policy: policy(name, validateIdentityPolicy) })),
      serviceControlPolicies: [],
      resourceControlPolicies: [],
      permissionBoundaryPolicies: request.boundary
        ? [{ name: request.boundary, policy: policy(request.boundary, validateIdentityPolicy) }]
        : undefined,
      resourcePolicy: request.attached ? policy(request.attached, validateResourcePolicy) : undefined,
    }
    const faults = [...checked.values()].flatMap(({ errors }) => errors)
    answers.push(faults.length ? { error: JSON.stringify(faults) } : await decide(request, simulation))
  }
  process.stdout.write(JSON.stringify(answers) + '\n')
}
