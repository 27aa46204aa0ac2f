"""GraphQL with an extension that says for whom a query ran; 0.298.0 made one such object for all requests."""

import asyncio

import strawberry
from strawberry.extensions import SchemaExtension


class Audit(SchemaExtension):
    def get_results(self):
        return {"audit": self.execution_context.context["name"]}


@strawberry.type
class Query:
    @strawberry.field
    async def whoami(self, info: strawberry.Info) -> str:
        await asyncio.sleep(0.001)
        return info.context["name"]


schema = strawberry.Schema(query=Query, extensions=[Audit])


async def ask(name):
    result = await schema.execute("{ whoami }", context_value={"name": name})
    return {"data": result.data, "extensions": result.extensions, "errors": result.errors}
