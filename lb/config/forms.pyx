"""Routes of one form: of thousands, most differ from one another in their name, pool, host and path only.

What a file says of a route apart from these texts is its form. The first route of a form is validated as a whole; for
those after it only their own texts are, and the rest is what it became for the first. Wherever a text has a say in more
than its own field, and wherever anything is wrong, all is left to the models, so that a file's routes and its mistakes
are the same with forms and without.
"""

from pydantic import TypeAdapter, ValidationError

from lb.config.base import HostPattern, HttpPath, Name

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object, object, object) except -1

cdef object name_of = TypeAdapter(Name).validator.validate_python
cdef object host_of = TypeAdapter(HostPattern).validator.validate_python
cdef object http_path_of = TypeAdapter(HttpPath).validator.validate_python

# The paths whose text has no say in whether it is one of its kind.
cdef tuple PLAIN_PATHS = ("exact", "prefix")
# What looks at the path, too.
cdef tuple MORE = ("rewrite", "redirect")


cdef class Parts:
    """What a file says of a route: its form, packed, and its own texts; None where there is none."""
    cdef bytes form
    cdef object name
    cdef object pool
    cdef object host
    cdef object kind                  # of the path
    cdef object path

    cdef bint plain(self):
        """Whether the texts are texts. An empty pool is as good as none to a route, so that is one of another form."""
        cdef object text
        for text in (self.name, self.pool, self.host, self.path):
            if text is not None and (type(text) is not str or not text):
                return False
        return True


cpdef object form_of(route):
    """A number that only routes of the same form as `route` have, as long as one of them is there."""
    return id(route.__pydantic_fields_set__)      # which they share, and nobody changes


def by_form(list routes not None):
    """Of each form that `routes` (RouteConfig) have: the first route, and the places of all, as pairs."""
    cdef dict places = {}
    cdef Py_ssize_t i
    for i in range(len(routes)):
        found = places.setdefault(form_of(routes[i]), [])
        (<list>found).append(i)
    return [(routes[(<list>found)[0]], found) for found in places.values()]


def validated(values, make, memory):
    """`make(values)`, where `values` is what a file's parser gives for a list of routes, and `make` validates such a
    list. Routes and forms that `memory` (FileMemory) has are not made again. Raises ValidationError as `make` does."""
    cdef Parts its
    cdef list keys, routes, parts, whole
    cdef dict first = {}                          # of each form that is not known, the place of its first route
    cdef dict hosts = {}
    cdef Py_ssize_t i
    if type(values) is not list:
        return make(values)
    keys = [memory.key(value) for value in values]
    routes = [None if key is None else memory.routes.get(key) for key in keys]
    parts = [None if route is not None else parts_of(value, memory) for value, route in zip(values, routes)]
    whole = []                                    # places of the routes to validate as a whole
    for i in range(len(parts)):
        its = parts[i]
        if its is None:
            if routes[i] is None:
                whole.append(i)
        elif memory.forms.get(its.form) is None and first.setdefault(its.form, i) == i:
            whole.append(i)
    try:
        if whole:
            for i, route in zip(whole, make([values[i] for i in whole])):
                routes[i] = route
        for form, i in first.items():
            memory.forms.put(form, routes[i])
        for i in range(len(parts)):
            if routes[i] is None:
                routes[i] = like(memory.forms.get((<Parts>parts[i]).form), <Parts>parts[i], hosts)
    except ValidationError:
        return make(values)                       # which says where it is
    for key, route in zip(keys, routes):
        if key is not None:
            memory.routes.put(key, route)
    return routes


cdef Parts parts_of(value, memory):
    """None: the route is to be validated as a whole."""
    cdef Parts parts
    cdef dict form, match
    if type(value) is not dict:
        return None
    for key in MORE:
        if key in <dict>value:
            return None
    form = (<dict>value).copy()
    parts = Parts.__new__(Parts)
    parts.name = form.get("name")
    parts.pool = form.get("pool")
    if parts.name is not None:
        form["name"] = ""
    if parts.pool is not None:
        form["pool"] = ""
    given = form.get("match")
    if type(given) is dict:
        match = form["match"] = (<dict>given).copy()
        parts.host = match.get("host")
        if parts.host is not None:
            match["host"] = ""
        path = match.get("path")
        if type(path) is dict and len(<dict>path) == 1:
            ((kind, text),) = (<dict>path).items()
            if text is not None and kind in PLAIN_PATHS:
                parts.kind = kind
                parts.path = text
                match["path"] = {kind: ""}
    if not parts.plain():
        return None
    parts.form = memory.key(form)
    return None if parts.form is None else parts


cdef object like(known, Parts parts, dict hosts):
    """The route of `parts`, whose form is that of the route `known`. `hosts` are those that were validated. Raises
    ValidationError for a text that is not what it should be."""
    cdef dict changes = {}
    match = known.match
    if parts.host is not None:
        host = hosts.get(parts.host)
        if host is None:
            host = hosts[parts.host] = host_of(parts.host)
        changes["host"] = host
    if parts.path is not None:
        changes["path"] = with_changes(match.path, {parts.kind: http_path_of(parts.path)})
    if changes:
        changes = {"match": with_changes(match, changes)}
    if parts.name is not None:
        changes["name"] = name_of(parts.name)
    if parts.pool is not None:
        changes["pool"] = parts.pool
    return with_changes(known, changes)


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
