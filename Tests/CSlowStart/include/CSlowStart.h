#ifndef PV_SLOW_START_H
#define PV_SLOW_START_H

/// Forks a child that stands for a process that is just being started: it has copies of all descriptors, waits until `gate`
/// is readable and only then runs /bin/true. Its process id, or -1 with errno.
int pv_slow_start(int gate);

/// Waits for a child for at most so many milliseconds: its exit status, -1 if it has not ended.
int pv_slow_start_end(int child, int milliseconds);

#endif
