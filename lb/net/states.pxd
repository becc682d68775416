"""State machines as data: names of states, which may follow which, and the step from one to the next.

A debug build stops at a step that the table lacks. Such a build is one with TIDEGATE_DEBUG defined, or without
optimisation (`TIDEGATE_CFLAGS="-O0 -g"`). Other builds store the new state and look at nothing.
"""

from libc.stdint cimport uint32_t


cdef extern from *:
    """
    #ifndef TIDEGATE_STATES
    #define TIDEGATE_STATES
    #include <stdint.h>

    #if !defined(TIDEGATE_DEBUG) && !defined(__OPTIMIZE__)
    #define TIDEGATE_DEBUG 1
    #endif

    typedef struct {
        const char *machine;     /* what has these states, for messages */
        int count;               /* of the states; everything begins in the first */
        const char *names[16];
        uint32_t followers[16];  /* a bit for each state that may come next; 0 = the end */
    } tg_states;

    #ifdef TIDEGATE_DEBUG
    #include <stdio.h>
    #include <stdlib.h>

    static inline const char *tg_state_name(const tg_states *table, int state) {
        return state >= 0 && state < table->count ? table->names[state] : "unknown";
    }
    #endif

    /* The machine whose state is `*state` takes the step to `to`. */
    static inline void tg_move(const tg_states *table, unsigned char *state, int to) {
    #ifdef TIDEGATE_DEBUG
        if (to < 0 || to >= table->count || !(table->followers[*state] >> to & 1)) {
            fprintf(stderr, "tidegate: %s: state %s may not follow %s\\n", table->machine, tg_state_name(table, to),
                    tg_state_name(table, *state));
            abort();
        }
    #else
        (void)table;
    #endif
        *state = (unsigned char)to;
    }
    #endif
    """
    ctypedef struct tg_states:
        const char *machine
        int count
        const char *names[16]
        uint32_t followers[16]
    void tg_move(const tg_states *table, unsigned char *state, int to) noexcept nogil


# Adds the state of the next number: `followers` has a bit for each state that may come next, and is 0 at the end.
cdef inline void tg_state(tg_states *table, const char *name, uint32_t followers) noexcept:
    table.names[table.count] = name
    table.followers[table.count] = followers
    table.count += 1


# The table as Python knows it: the names of the followers by the state's name, in the order of the numbers.
cdef dict states_of(const tg_states *table)
