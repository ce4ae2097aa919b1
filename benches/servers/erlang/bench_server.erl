%% What the servers on the VM have in common: how they begin, what they say, and how they end.
%%
%% `erl ... -s bench_server start -extra Module Argument ...': calls `Module:serve([Argument])', which answers the port
%% or why it cannot serve. Ends at the end of standard input; SIGTERM ends the VM anyway.
-module(bench_server).

-export([start/0, contexts/0, udp_options/0]).

-type outcome() :: {ok, inet:port_number(), Versions :: iodata()} | {unavailable, iodata()}.

-callback serve([string()]) -> outcome().

%% Lasts longer than any server: `-s' must return before the VM is up.
-spec start() -> ok.
start() ->
    _ = spawn(fun run/0),
    ok.

-spec run() -> ok | no_return().
run() ->
    [Module | Arguments] = init:get_plain_arguments(),
    try (list_to_existing_module(Module)):serve(Arguments) of
        {ok, Port, Versions} ->
            say([
                "{\"port\": ", integer_to_list(Port),
                ", \"pid\": ", os:getpid(),
                ", \"version\": ", json([Versions, "OTP ", erlang:system_info(otp_release)]), "}"
            ]),
            wait_for_end(),
            init:stop();
        {unavailable, Why} ->
            say(["{\"unavailable\": ", json(Why), "}"]),
            init:stop()
    catch
        Class:Reason:Stack ->
            io:format(standard_error, "~tp~n", [{Class, Reason, Stack}]),
            init:stop(1)
    end.

-spec list_to_existing_module(string()) -> module().
list_to_existing_module(Name) ->
    Module = list_to_atom(Name),
    {module, Module} = code:ensure_loaded(Module),
    Module.

-spec wait_for_end() -> ok.
wait_for_end() ->
    case io:get_line("") of
        eof -> ok;
        {error, _} -> ok;
        _ -> wait_for_end()
    end.

-spec say(iodata()) -> ok.
say(Line) ->
    io:put_chars([Line, $\n]).

%% A JSON string.
-spec json(iodata()) -> iodata().
json(Text) ->
    [$", [escape(Char) || Char <- unicode:characters_to_list(Text)], $"].

-spec escape(char()) -> iodata().
escape(Char) when Char =:= $"; Char =:= $\\ -> [$\\, Char];
escape(Char) when Char < 32; Char > 126 -> io_lib:format("\\u~4.16.0b", [Char band 16#FFFF]);
escape(Char) -> Char.

%% How many threads are to serve.
-spec contexts() -> pos_integer().
contexts() ->
    list_to_integer(os:getenv("CONTEXTS", "1")).

%% With these, sockets of `gen_udp' may share a port (SO_REUSEPORT of SOL_SOCKET on Linux, for which OTP 25 has no name),
%% and may hold as much as sockets do by default: `gen_udp' would ask for 8 KiB, and the kernel drop what is sent in
%% bursts. The kernel doubles the number.
-spec udp_options() -> [gen_udp:option()].
udp_options() ->
    {ok, Text} = file:read_file("/proc/sys/net/core/rmem_default"),
    {Bytes, _} = string:to_integer(binary_to_list(Text)),
    [binary, {ip, {127, 0, 0, 1}}, {raw, 1, 15, <<1:32/native>>}, {recbuf, Bytes div 2}].
