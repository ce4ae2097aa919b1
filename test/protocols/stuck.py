"""A protocol whose callback does not return until it is told to, and uses its connection then."""

import recorder


def is_inside(tag):
    return ("data_received", "stuck") in recorder.events(tag)


class Stuck(recorder.Recording):
    def data_received(self, data):
        recorder.note(self.tag, "data_received", "stuck")
        recorder._released[self.tag].wait()
        for _ in range(1000):
            self.write(b"this must reach nobody else")
            self.read()
        return "write_pending"
