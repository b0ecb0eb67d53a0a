"""One step of a plan, judged by itself and by what stands around it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from core import conditions, plan, schemas, spelling, values
from core.grants import MAX_GRANTS
from core.references import Nodes, References, Surroundings
from core.violations import check_names, check_text, check_value, plain, show
from handrail.tool import MAX_TOOL_TIMEOUT_S
from handrail.v1 import plan_pb2, tool_pb2

Arguments = Mapping[str, plan_pb2.Argument]


class StepCheck:
    """One look at one step."""

    def __init__(self, around: Surroundings, where: str, step: plan_pb2.Step) -> None:
        self.around = around
        self.where = where
        self.step = step
        self.references = References(around, where, step)
        self.add = self.references.add

    def run(self) -> None:
        """Check everything about the step."""
        limits = self.around.limits
        check_text(self.around.found, f"{self.where}.title", self.step.title, limits.max_title_chars)
        self._bounds()
        self._after()
        if self.step.each:
            self._each()
        if self.step.when:
            self._when()
        route = plan.canonical_route(self.step)
        if route == plan_pb2.ROUTE_DIRECT:
            self._direct()
        elif route == plan_pb2.ROUTE_CHOOSE:
            self._choose()
        elif route == plan_pb2.ROUTE_LAM and limits.proposers:
            self._propose()
        else:
            self._unavailable(route)

    def _unavailable(self, route: int) -> None:
        names = plan_pb2.Route.values()
        name = plan_pb2.Route.Name(route).partition("_")[2].lower() if route in names else str(route)  # type: ignore[arg-type]
        if route == plan_pb2.ROUTE_LAM:
            message = 'no executor here proposes actions; in handrail.toml: [minds] proposer = "lam"'
        else:
            known = "direct, choose, lam" if self.around.limits.proposers else "direct, choose"
            message = f"the route '{name}' is not available yet; there are: {known}"
        self.add("route", "route_unavailable", message)

    def _bounds(self) -> None:
        limits, step = self.around.limits, self.step
        if step.HasField("timeout"):
            seconds = step.timeout.seconds + step.timeout.nanos / 1e9
            if not 0 < seconds <= MAX_TOOL_TIMEOUT_S:
                bounds = f"above 0 and at most {MAX_TOOL_TIMEOUT_S:g} seconds"
                message = f"the timeout must be {bounds}, not {seconds:g}"
                self.add("timeout", "bad_timeout", message)
        if step.max_attempts > limits.max_attempts:
            message = f"a step has at most {limits.max_attempts} attempts, not {step.max_attempts}"
            self.add("max_attempts", "bad_attempts", message)
        if step.each_limit > limits.max_steps:
            message = f"a fan-out has at most {limits.max_steps} items, not {step.each_limit}"
            self.add("each_limit", "bad_each", message)
        if step.each_limit and not step.each:
            self.add("each_limit", "bad_each", "a limit of items is for a step with 'each'")

    def _after(self) -> None:
        most = self.around.limits.max_after
        if len(self.step.after) > most:
            message = f"a step waits for at most {most} steps, not {len(self.step.after)}"
            self.add("after", "too_long", message)
            return
        for index, name in enumerate(self.step.after):
            self.references.known(f"after[{index}]", name)

    def _each(self) -> None:
        try:
            reference = plan.parse_reference(self.step.each)
        except plan.BadReference as error:
            self.add("each", "bad_each", f"'each' is a reference to a list: {error}")
            return
        if reference.root in ("each", "input"):
            self.add("each", "bad_each", f"'each' refers to a step or to $goal, not to ${reference.root}")
            return
        nodes = self.references.check("each", self.step.each, in_rule=False)
        if nodes is not None and schemas.descend(nodes, 0) == ():
            self.add("each", "bad_each", f"{reference} is not a list")

    def _when(self) -> None:
        others = {name for name in self.around.steps if name != self.step.id}
        if not self._condition("when", self.step.when, others | {"goal"}):
            return
        for name in conditions.variables(self.step.when) & others:
            step = self.around.steps[name]
            if not step.each:
                self._fields("when", self.step.when, name, self.around.output(step))

    def _condition(self, field: str, expression: str, variables: set[str]) -> bool:
        problem = conditions.check(expression, variables)
        if problem is not None:
            self.add(field, "bad_condition", problem)
        return problem is None

    def _fields(self, field: str, expression: str, variable: str, nodes: Nodes | None) -> None:
        for name in sorted(conditions.fields(expression, variable)):
            if nodes is not None and schemas.descend(nodes, name) == ():
                hint = spelling.hint(name, schemas.names(nodes))
                self.add(field, "bad_condition", f"'{variable}' has no '{name}'{hint}")

    def _direct(self) -> None:
        if self.step.rules:
            self.add("rules", "route_mismatch", "a direct step has one tool and no rules; drop one of them")
        if self.step.grants:
            self.add("grants", "route_mismatch", "a direct step has one tool and no grants; drop one of them")
        contract = self._tool("tool", self.step.tool)
        self._arguments("arguments", self.step.arguments, contract, in_rule=False)
        self._post(contract)

    def _choose(self) -> None:
        step, limits = self.step, self.around.limits
        if step.tool:
            self.add("tool", "route_mismatch", "a choose step's tools stand in its rules; drop this one")
        if step.grants:
            self.add("grants", "route_mismatch", "a choose step has rules and no grants; drop one of them")
        if not step.rules:
            self.add("rules", "no_rules", "a choose step needs at least one rule")
        if len(step.rules) > limits.max_rules:
            message = f"a step has at most {limits.max_rules} rules, not {len(step.rules)}"
            self.add("rules", "too_many_rules", message)
            return
        self._arguments("arguments", step.arguments, None, in_rule=False)
        for index, rule in enumerate(step.rules):
            self._rule(f"rules[{index}]", rule, last=index == len(step.rules) - 1)
        self._post(None)

    def _rule(self, field: str, rule: plan_pb2.Rule, *, last: bool) -> None:
        if rule.when:
            if self._condition(f"{field}.when", rule.when, {"input"}):
                for name in sorted(conditions.fields(rule.when, "input") - set(self.step.arguments)):
                    self.references.unknown_input(f"{field}.when", name)
        elif not last:
            self.add(f"{field}.when", "otherwise_not_last", "a rule without 'when' always holds: put it last")
        contract = self._tool(f"{field}.tool", rule.tool)
        self._arguments(f"{field}.arguments", rule.arguments, contract, in_rule=True)

    def _propose(self) -> None:
        step = self.step
        if step.tool or step.rules:
            message = "the tools of a lam step stand in its grants; drop its tool and its rules"
            self.add("tool" if step.tool else "rules", "route_mismatch", message)
        if not step.grants:
            self.add("grants", "no_grants", "a lam step needs at least one grant")
        if len(step.grants) > MAX_GRANTS:
            message = f"a step has at most {MAX_GRANTS} grants, not {len(step.grants)}"
            self.add("grants", "too_many_grants", message)
            return
        self._arguments("arguments", step.arguments, None, in_rule=False)
        for index, grant in enumerate(step.grants):
            self._grant(f"grants[{index}]", grant)
        self._post(None)

    def _grant(self, field: str, grant: plan_pb2.Grant) -> None:
        contract = self._tool(f"{field}.tool", grant.tool)
        # What is open is there too, and only its value is not known.
        given = {**grant.arguments, **dict.fromkeys(grant.open, plan_pb2.Argument())}
        self._arguments(f"{field}.arguments", given, contract, in_rule=True, open_to=grant.open)
        for name, condition in sorted(grant.open.items()):
            where = f"{field}.open.{plain(name)}"
            if name in grant.arguments:
                self.add(where, "bad_grant", "an argument is fixed or open; this is both")
            if condition and self._condition(where, condition, {"value", "input"}):
                for used in sorted(conditions.fields(condition, "input") - set(self.step.arguments)):
                    self.references.unknown_input(where, used)

    def _post(self, contract: tool_pb2.ToolContract | None) -> None:
        expression = self.step.post
        if not expression or not self._condition("post", expression, {"args", "output", "reads"}):
            return
        self._fields("post", expression, "output", self.around.output(self.step))
        if contract is not None:
            self._fields("post", expression, "args", schemas.compile_schema(contract.input_schema).nodes)
            reads = {read.name for read in contract.reads}
            for name in sorted(conditions.fields(expression, "reads") - reads):
                hint = spelling.hint(name, reads)
                self.add("post", "bad_condition", f"{contract.name} makes no read '{name}'{hint}")

    def _tool(self, field: str, name: str) -> tool_pb2.ToolContract | None:
        contract = self.around.contracts.get(name)
        if contract is None:
            hint = spelling.hint(name, self.around.contracts)
            message = f"there is no tool {show(name)}{hint}" if name else f"name a tool{hint}"
            self.add(field, "unknown_tool", message)
        elif contract.permission > self.around.ceiling:
            needed, allowed = (_permission(level) for level in (contract.permission, self.around.ceiling))
            message = f"{name} needs the permission '{needed}', and this goal allows up to '{allowed}'"
            self.add(field, "permission_above_ceiling", message)
        return contract

    def _arguments(
        self,
        field: str,
        arguments: Arguments,
        contract: tool_pb2.ToolContract | None,
        *,
        in_rule: bool,
        open_to: Collection[str] = (),
    ) -> None:
        if len(arguments) > self.around.limits.max_arguments:
            message = f"there are at most {self.around.limits.max_arguments} arguments, not {len(arguments)}"
            self.add(field, "too_many_arguments", message)
            return
        schema = schemas.compile_schema(contract.input_schema) if contract is not None else None
        if schema is not None and contract is not None:
            check_names(self.around.found, schema, contract.name, arguments, f"{self.where}.{field}")
        for name, argument in sorted(arguments.items()):
            where = f"{field}.{plain(name)}"
            form = argument.WhichOneof("form")
            if form == "reference":
                self.references.check(where, argument.reference, in_rule=in_rule)
            elif form == "constant":
                self._constant(where, schema, name, argument.constant)
            elif name not in open_to:
                self.add(where, "empty_argument", "an argument is a constant or a reference; this is neither")

    def _constant(
        self, field: str, schema: schemas.Schema | None, name: str, constant: plan_pb2.Value
    ) -> None:
        if constant.HasField("blob"):
            return  # judged when it is loaded, before the action
        try:
            value = values.load(constant, {})
        except values.BadValue as error:
            self.add(field, "bad_value", str(error))
            return
        if schema is not None and (name in schema.properties or not schema.closed):
            check_value(self.around.found, schema, name, value, f"{self.where}.{field}")


def _permission(level: int) -> str:
    names: dict[int, str] = {
        number: name.partition("_")[2].lower() for name, number in tool_pb2.Permission.items()
    }
    return names.get(level, str(level))
