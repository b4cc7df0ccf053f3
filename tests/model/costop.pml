/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How two CPUs take, run, co-stop, block and wake the two vCPUs of a VM: lib/sched/sched_pick.c and
 * sched_cosched.c, with progress counted in whole steps, taken modulo what matters (the lead).
 *
 * Checked: a vCPU is never current on two CPUs; a wake is never lost; the skew between runnable
 * siblings never passes COSTOP by more than the step in progress; a vCPU that stays runnable
 * runs again, however the leader is stopped (no deadlock of two that wait for each other).
 */
#define COSTOP  2 /* a leader this far ahead is stopped */
#define COSTART 1 /* and starts again at this */

#define BLOCKED 0
#define READY   1
#define RUNNING 2

byte st[2] = READY;     /* state word of each vCPU */
bool pending[2];        /* woken while running */
byte work[2];           /* events not yet seen by the guest: a lost wake would leave one */
bool stopped[2];        /* held back for its sibling */
short lead = 0;         /* progress of vCPU 0 less that of vCPU 1 */
byte holders[2];        /* CPUs on which it is current */

#define ahead(v) ((v) == 0 -> lead : -lead)

/* the sibling holds it back only while itself runnable: sleep counts as progress */
#define must_stop(v) (st[1 - (v)] != BLOCKED && ahead(v) > (stopped[v] -> COSTART : COSTOP))

/* READY -> RUNNING is one compare-and-swap; the check before it may be out of date */
inline try_take(v) {
    bool hold;
    got = false;
    hold = must_stop(v);
    if
    :: hold -> stopped[v] = true
    :: else ->
        atomic {
            stopped[v] = false;
            if
            :: st[v] == READY ->
                st[v] = RUNNING;
                holders[v]++;
                assert(holders[v] == 1);
                got = true
            :: else
            fi
        }
    fi
}

inline run_step(v) {
    atomic {
        if
        :: v == 0 -> lead++
        :: else -> lead--
        fi;
        /* a sleeper comes back level: what was gained over it does not count */
        if
        :: st[1 - v] == BLOCKED -> lead = 0
        :: else
        fi;
        assert(lead <= COSTOP + 2 && lead >= -(COSTOP + 2))
    }
}

inline give_back(v) {
    atomic { holders[v]--; pending[v] = false; st[v] = READY }
}

/* The guest looks for work with interrupts off, then halts; a wake in between stays pending. */
inline block(v) {
    atomic {
        holders[v]--;
        if
        :: pending[v] -> pending[v] = false; st[v] = READY
        :: else -> st[v] = BLOCKED; stopped[v] = false
        fi
    }
}

active [2] proctype cpu() {
    byte v;
    bool got;

    do
    :: v = 1 - v; /* the plan serves both */
       try_take(v);
       if
       :: got ->
           run_step(v);
           if
           :: work[v] > 0 -> work[v] = 0; give_back(v)
           :: work[v] == 0 -> block(v)
           :: give_back(v)
           fi
       :: else
       fi
    od
}

/* A device: raises work, then wakes. */
active proctype device() {
    byte v;

    do
    :: if
       :: v = 0
       :: v = 1
       fi;
       work[v] = 1;
       atomic {
           if
           :: st[v] == BLOCKED -> st[v] = READY; lead = 0 /* level with its sibling */
           :: st[v] == RUNNING -> pending[v] = true
           :: else
           fi
       }
    od
}

/* With work raised and the wake done, the vCPU is not left asleep for ever. */
ltl no_lost_wake { [] ((work[0] == 1 && st[0] == BLOCKED) -> <> (st[0] != BLOCKED || work[0] == 0)) }
/* Whoever is runnable runs or sleeps again: nobody is held back for ever, nor do both wait. */
ltl runs_again { [] ((st[0] == READY) -> <> (st[0] != READY)) }
/* The model can really stop a leader: this must fail. */
ltl bad_never_stops { [] !stopped[0] }
