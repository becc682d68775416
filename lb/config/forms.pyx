"""Routes of one form: of thousands, most differ from one another in their name, pool, host and path only.

What a file says of a route apart from these texts is its form. The first route of a form is validated as a whole; for
those after it only their own texts are, and the rest is what it became for the first. Wherever a text has a say in more
than its own field, and wherever anything is wrong, all is left to the models, so that a file's routes and its mistakes
are the same with forms and without.

Whoever looks at every route of a load looks at its Member of the form; its RouteConfig, thirty fields, is made when it
is asked for.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from lb.config.schema.base import HostPattern, HttpPath, Name
from lb.config.plan.places import place_of

if TYPE_CHECKING:
    from lb.config.memory import FileMemory
    from lb.config.schema.routes.route import RouteConfig

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object, object, object) except -1

cdef object name_of = TypeAdapter(Name).validator.validate_python
cdef object host_of = TypeAdapter(HostPattern).validator.validate_python
cdef object path_of = TypeAdapter(HttpPath).validator.validate_python

# The paths whose text has no say in whether it is one of its kind.
cdef tuple PLAIN_PATHS = ("exact", "prefix")
# What looks at the path, too.
cdef tuple MORE = ("rewrite", "redirect")


cdef class Member:
    """One route: what it has to itself, and the first of its form."""
    cdef readonly object first            # type: RouteConfig
    cdef readonly object name             # type: str | None
    cdef readonly object pool             # type: str | None
    # What lb.config.plan.places says of it.
    cdef readonly tuple place             # type: tuple[str, bool, str, str]
    cdef object made                      # RouteConfig, once it was asked for
    # As the file has them; None where it has none.
    cdef bytes form                       # packed; None: it is validated as a whole
    cdef object host
    cdef object kind                      # of the path
    cdef object path

    @property
    def route(self) -> RouteConfig:
        """The RouteConfig."""
        cdef dict changes
        if self.made is None:
            match = self.first.match
            changes = {}
            if self.host is not None:
                changes["host"] = self.place[0]
            if self.path is not None:
                changes["path"] = with_changes(match.path, {self.kind: self.path})
            changes = {"match": with_changes(match, changes)} if changes else {}
            if self.name is not None:
                changes["name"] = self.name
            if self.pool is not None:
                changes["pool"] = self.pool
            self.made = with_changes(self.first, changes)
        return self.made

    cdef bint plain(self):
        """Whether the texts are texts. An empty pool is as good as none to a route, so that is one of another form."""
        for text in (self.name, self.pool, self.host, self.path):
            if text is not None and (type(text) is not str or not text):
                return False
        return True

    cdef int follow(self, Member first, dict hosts) except -1:
        """Makes this one a member of the form of `first`. `hosts` are those that were validated. Raises ValidationError
        for a text that is not what it should be."""
        host, host_regex, kind, path = first.place
        if self.host is not None:
            host = hosts.get(self.host)
            if host is None:
                host = hosts[self.host] = host_of(self.host)
        if self.path is not None:
            kind, path = self.kind, path_of(self.path)
        if self.name is not None:
            name_of(self.name)
        self.place = (host, host_regex, kind, path)
        self.first = first.first
        return 0


cdef Member whole(route):
    """A route that is the first of its form, or the only one."""
    cdef Member made = Member.__new__(Member)
    made.first = made.made = route
    made.name = route.name
    made.pool = route.pool
    made.place = place_of(route.match)
    return made


class Routes(Sequence):
    """The routes of `members`, as RouteConfigs."""

    __slots__ = ("members",)

    def __init__(self, members: list[Member]):
        self.members = members

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Routes(self.members[index])
        return self.members[index].route

    def __eq__(self, other):
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None

    def __repr__(self):
        return repr(list(self))


def members_of(routes: Sequence[RouteConfig]) -> list[Member]:
    """The Member of each of `routes`, which are a Routes or a list of RouteConfig."""
    return routes.members if isinstance(routes, Routes) else [whole(route) for route in routes]


def with_route(routes: Sequence[RouteConfig], index: int, route: RouteConfig) -> Sequence[RouteConfig]:
    """`routes` with another one at `index`; the rest are the members that they were."""
    cdef list members = list(members_of(routes))
    members[index] = whole(route)
    return Routes(members)


def by_form(list members not None: list[Member]) -> list[tuple[RouteConfig, list[int]]]:
    """Of each form: its first RouteConfig, and the numbers of its members, as pairs."""
    cdef dict found = {}
    cdef Member member
    cdef Py_ssize_t i
    for i in range(len(members)):
        member = members[i]
        numbers = found.get(id(member.first))
        if numbers is None:
            found[id(member.first)] = [i]
        else:
            (<list>numbers).append(i)
    return [((<Member>members[(<list>numbers)[0]]).first, numbers) for numbers in found.values()]


def validated(values: Any, make: Callable[[Any], list[RouteConfig]], memory: FileMemory) -> Sequence[RouteConfig]:
    """`make(values)`, where `values` is what a file's parser gives for a list of routes, and `make` validates such a
    list. Routes and forms that `memory` (FileMemory) has are not made again. Raises ValidationError as `make` does."""
    cdef Member member
    cdef list keys, members, unlike
    cdef dict first = {}                          # of each form that is not known, the place of its first route
    cdef dict hosts = {}
    cdef Py_ssize_t i
    if type(values) is not list:
        return make(values)
    keys = [memory.key(value) for value in values]
    members = [None if key is None else memory.routes.get(key) for key in keys]
    unlike = []                                   # places of the routes to validate as a whole
    for i in range(len(members)):
        if members[i] is None:
            # What cannot be packed holds half a character, which the models refuse wherever it stands.
            members[i] = member = Member.__new__(Member) if keys[i] is None else member_of(values[i], memory)
            if member.form is None or (
                    memory.forms.get(member.form) is None and first.setdefault(member.form, i) == i):
                unlike.append(i)
    try:
        if unlike:
            for i, route in zip(unlike, make([values[i] for i in unlike])):
                members[i] = whole(route)
        for form, i in first.items():
            memory.forms.put(form, members[i])
        for i in range(len(members)):
            member = members[i]
            if member.first is None:
                member.follow(memory.forms.get(member.form), hosts)
    except ValidationError:
        return make(values)                       # which says where it is
    for key, member in zip(keys, members):
        if key is not None:
            memory.routes.put(key, member)
    return Routes(members)


cdef Member member_of(value, memory):
    """A Member that is still without the first of its form."""
    cdef Member member = Member.__new__(Member)
    cdef dict form, match
    if type(value) is not dict:
        return member
    for key in MORE:
        if key in <dict>value:
            return member
    form = (<dict>value).copy()
    member.name = form.get("name")
    if member.name is not None:
        form["name"] = ""
    member.pool = form.get("pool")
    if member.pool is not None:
        form["pool"] = ""
    given = form.get("match")
    if type(given) is dict:
        match = form["match"] = (<dict>given).copy()
        member.host = match.get("host")
        if member.host is not None:
            match["host"] = ""
        path = match.get("path")
        if type(path) is dict and len(<dict>path) == 1:
            ((kind, text),) = (<dict>path).items()
            if text is not None and kind in PLAIN_PATHS:
                member.kind = kind
                member.path = text
                match["path"] = {kind: ""}
    if member.plain():
        member.form = memory.key(form)
    return member


cdef object with_changes(model, dict changes):
    """`model` with other values for some of its fields. Its `model_copy` would do the same at many times the cost, and
    with a set of its own of the fields that were given."""
    cdef dict values = (<dict>model.__dict__).copy()
    kind = type(model)
    made = kind.__new__(kind)
    values.update(changes)
    # Past the models' own __setattr__: they are frozen.
    PyObject_GenericSetAttr(made, "__dict__", values)
    PyObject_GenericSetAttr(made, "__pydantic_fields_set__", model.__pydantic_fields_set__)
    PyObject_GenericSetAttr(made, "__pydantic_extra__", None)
    PyObject_GenericSetAttr(made, "__pydantic_private__", None)
    return made
