import erlang.reactor as reactor

class BufferProtocol(reactor.Protocol):
    def __init__(self):
        self.request_buffer = bytearray()
        self.http = 0

    def handle_http(self):
        self.http += 1

    def data_received(self, data):
        # Buffer protocol - zero-copy access
        mv = memoryview(data)
        first_byte = mv[0]

        # Indexing and slicing
        header = data[0:4]
        last_byte = data[-1]

        # Bytes methods
        if data.startswith(b'GET'):
            method = 'GET'
        pos = data.find(b'\r\n')
        count = data.count(b'/')

        # String conversion
        text = data.decode('utf-8')

        # Comparison
        if data == b'PING':
            self.write_buffer.extend(b'PONG')

        # Convert to bytes (creates a copy)
        data_copy = bytes(data)

        # 'in' operator
        if b'HTTP' in data:
            self.handle_http()

        # Length
        size = len(data)

        # Extend bytearray (uses buffer protocol)
        self.request_buffer.extend(data)

        # For maximum performance, use memoryview slicing for comparisons
        mv = data.memoryview()
        if mv[:3] == b'GET':
            # Process GET request
            method = 'GET'

        self.seen = dict(locals())
        return "continue"

reactor.set_protocol_factory(BufferProtocol)
