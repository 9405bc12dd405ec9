"""What a chat template does with message contents, read from its syntax tree.

The compiler may write a shape of chats from pieces only if the template puts contents out as they are, or
stripped. This analysis errs on the careful side. It follows contents through assignments, loops and macros,
for chats whose messages hold nothing but a role and a text, and finds

- the strings that contents are compared with, searched for or split at: a chat with such a string in a
  content is left to Jinja (`'</think>' in content`);
- whether it matters that a content is empty, or only whitespace;
- anything else that looks into a content (`content[:10]`, `content | upper`): then nothing is compiled.
"""

from __future__ import annotations

from collections.abc import Iterable

from jinja2 import nodes

from tokpack.stages.render.template_kinds import Analysis, Expressions, Kind, OpaqueError, name_of


def analyse(tree: nodes.Template) -> Analysis:
    """Analyse a template's syntax tree."""
    walker = _Walker()
    try:
        while True:  # names get kinds from assignments further down, in loops
            before = dict(walker.names)
            walker.statements(tree.body)
            if walker.names == before:
                return walker.result
    except OpaqueError as reason:
        return Analysis(opaque=str(reason))


class _Walker(Expressions):
    def __init__(self) -> None:
        super().__init__()
        self.put_out: set[Kind] = set()
        """Kinds put out by the block being walked."""

    def statements(self, body: Iterable[nodes.Node]) -> None:
        for node in body:
            self.statement(node)

    def statement(self, node: nodes.Node) -> None:
        handler = getattr(self, f"_{type(node).__name__.lower()}_statement", None)
        if handler is not None:
            handler(node)
        elif type(node).__name__ not in ("Continue", "Break"):
            raise OpaqueError(f"the statement {type(node).__name__}")

    def _output_statement(self, node: nodes.Output) -> None:
        for child in node.nodes:
            kind = self.kind(child)
            if kind not in (None, "content", "text", "absent"):
                raise OpaqueError(f"a {kind} is put out as it is")
            self.put_out.add(kind)

    def _if_statement(self, node: nodes.If) -> None:
        for branch in (node, *node.elif_):
            known = self.truth(branch.test)
            if known is not False:
                self.statements(branch.body)
            if known:
                return
        self.statements(node.else_)

    def _for_statement(self, node: nodes.For) -> None:
        over = self.kind(node.iter)
        if over in ("content", "text", "parts", "message", "length"):
            raise OpaqueError(f"a loop over a {over}")
        if over != "absent":
            self.assign(node.target, "message" if over == "list" else None)
            if over == "list":
                self.names["loop.previtem"] = self.names["loop.nextitem"] = "message"
            if node.test is not None:
                self.truth(node.test)
            self.statements(node.body)
        self.statements(node.else_)

    def _assign_statement(self, node: nodes.Assign) -> None:
        call = node.node
        if isinstance(call, nodes.Call) and name_of(call.node) == "namespace":
            for pair in call.kwargs:
                self.bind(f"{name_of(node.target)}.{pair.key}", self.kind(pair.value))
            self.none_of(call.args)
        else:
            self.assign(node.target, self.kind(node.node))

    def _assignblock_statement(self, node: nodes.AssignBlock) -> None:
        if node.filter is not None:
            raise OpaqueError("a filter over a block")
        self.assign(node.target, self.captured(node.body))

    def _macro_statement(self, node: nodes.Macro) -> None:
        self.macros[node.name] = node
        for parameter, default in zip(reversed(node.args), reversed(node.defaults), strict=False):
            self.bind(parameter.name, self.kind(default))
        self.bind(f"{node.name}()", self.captured(node.body))

    def _callblock_statement(self, node: nodes.CallBlock) -> None:
        if not isinstance(node.call.node, nodes.ExtensionAttribute):
            raise OpaqueError("a call block")
        self.statements(node.body)

    def _with_statement(self, node: nodes.With) -> None:
        for target, value in zip(node.targets, node.values, strict=True):
            self.assign(target, self.kind(value))
        self.statements(node.body)

    def _exprstmt_statement(self, node: nodes.ExprStmt) -> None:
        self.kind(node.node)

    def captured(self, body: list[nodes.Node]) -> Kind:
        """Kind of what a block puts out."""
        outside, self.put_out = self.put_out, set()
        self.statements(body)
        inside, self.put_out = self.put_out, outside
        if not inside & {"content", "text"}:
            return None
        return "content" if inside <= {"content", "absent"} else "text"

    def assign(self, target: nodes.Node, kind: Kind) -> None:
        if isinstance(target, nodes.Name):
            self.bind(target.name, kind)
        elif isinstance(target, nodes.NSRef):
            self.bind(f"{target.name}.{target.attr}", kind)
        elif kind not in (None, "absent"):
            raise OpaqueError(f"a {kind} is taken apart")
