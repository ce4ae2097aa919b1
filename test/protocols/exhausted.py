"""Takes all descriptors that this process may have."""

import os
import resource


class take_all:
    def __init__(self):
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        # As many as there are, so that few have to be taken.
        most = max(map(int, os.listdir("/proc/self/fd"))) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, self.limits[1]))
        self.taken = []
        try:
            while True:
                self.taken.append(os.dup(0))
        except OSError:
            pass

    def give_back(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)
        for fd in self.taken:
            os.close(fd)
