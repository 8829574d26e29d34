// Reads questions as JSON lines and answers each with a line: what IAM decides on a request under the policies it names.
// {"policies": {name: document}, "requests": [{"principal", "action", "resource", "account", "context", "identity": [names], "attached": name}]}
import { createInterface } from 'node:readline'
import { runSimulation } from '@cloud-copilot/iam-simulate'

for await (const line of createInterface({ input: process.stdin })) {
  const { policies, requests } = JSON.parse(line)
  const answers = []
  for (const { principal, action, resource, account, context, identity, attached } of requests) {
    const said = await runSimulation(
      {
        request: { principal, action, resource: { resource, accountId: account }, contextVariables: context },
        identityPolicies: identity.map((name) => ({ name, policy: policies[name] })),
        serviceControlPolicies: [],
        resourceControlPolicies: [],
        resourcePolicy: attached ? policies[attached] : undefined,
      },
      {},
    )
    answers.push(
      said.resultType === 'error'
        ? { error: JSON.stringify(said.errors) }
        : { decision: said.overallResult, ignored: said.result?.ignoredContextKeys ?? [] },
    )
  }
  process.stdout.write(JSON.stringify(answers) + '\n')
}
