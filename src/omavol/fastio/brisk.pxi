# Waiting awake. Whoever usually waits for a moment only looks again and again for that moment before it sleeps: to be
# woken costs more than a small request does (with both ends asleep 4 KiB one by one take 46 us here, awake 5).
#
# It must not cost others their processor. Who waited awake for nothing (the peer has slowed down, or shares this
# processor and cannot go on while it is watched) sleeps through the next waits, four times as many after each miss.

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    BRISK = 100000                  # nanoseconds that a wait is spent awake; KVM does so for up to 200000
    BRISK_LONGEST = 1000000         # what a longer wait counts as
    BRISK_REST = 4                  # waits that are slept through after a miss
    BRISK_REST_MOST = 256           # and after many

cdef struct Brisk:
    int64_t usual                   # nanoseconds, a moving average of the waits; 0: none yet
    uint32_t rest, rest_next        # waits to sleep through; and after the next miss


cdef inline bint stays_awake(const Brisk *brisk) noexcept nogil:
    """Whether the next wait may be spent awake."""
    return brisk.rest == 0 and 0 < brisk.usual < BRISK


cdef inline void waited(Brisk *brisk, int64_t took, bint awake) noexcept nogil:
    """Learn from a wait of `took` nanoseconds that began `awake`."""
    took = min(took, <int64_t>BRISK_LONGEST)
    brisk.usual = brisk.usual + (took - brisk.usual) // 8 if brisk.usual else <int64_t>BRISK_LONGEST
    if not awake:
        brisk.rest -= 1 if brisk.rest else 0
    elif took < BRISK:
        brisk.rest_next = BRISK_REST
    else:
        brisk.rest = max(brisk.rest_next, <uint32_t>BRISK_REST)
        brisk.rest_next = min(<uint32_t>BRISK_REST_MOST, brisk.rest * 4)
