# Filters as Python gives them (omavol.serve.filters), read into what the loops look at.

_FILTER_KINDS = {"delay": FILTER_DELAY, "error": FILTER_ERROR, "rate": FILTER_RATE, "pause": FILTER_PAUSE}


cdef Filter *_filters_of(object rows) except? NULL:
    """An array of filters, NULL for none; the caller frees it or gives it to an export."""
    cdef list wanted = list(rows)
    cdef Filter *filters
    cdef Py_ssize_t index
    if not wanted:
        return NULL
    filters = <Filter *>calloc(len(wanted), sizeof(Filter))
    if filters == NULL:
        raise MemoryError
    try:
        for index in range(len(wanted)):
            _read_filter(wanted[index], &filters[index])
    except BaseException:
        free(filters)
        raise
    return filters


cdef object _read_filter(dict row, Filter *filter):
    filter.kind = <FilterKind><int>_FILTER_KINDS[row["kind"]]
    for command, seconds in row.get("delays", {}).items():
        if not 0 <= command < FILTER_COMMANDS:
            raise ValueError(f"no command has the number {command}")
        filter.delay[<int>command] = <int64_t>(seconds * 1e9)
    filter.refuse_fast_zero = not row.get("fast_zero", True)
    filter.error = row.get("error", 0)
    for command in row.get("commands", ()):
        filter.commands |= <uint32_t>1 << <uint32_t>command
    if not filter.commands:
        filter.commands = (1 << FILTER_OPEN) - 1
    filter.every, filter.next = row.get("every", 0), row.get("next", 0)
    filter.chance = <uint64_t>(row.get("probability", 1.0) * 4294967296.0)
    filter.start, filter.end = row.get("range", (0, 0))
    filter.rate[0], filter.rate[1] = row.get("rates", (0, 0))
