%% @doc The example servers: HTTP in context 1 and an echo in context 2, each behind its own listener. `make run' starts
%% them by way of scripts/run.sh; demo_servers.py has the protocols.
%%
%% Runs until SIGTERM, then drains, says goodbye, and ends the VM with status 0.
-module(demo).
-behaviour(gen_event).

-export([start/0]).
-export([init/1, handle_event/2, handle_call/2]).

-define(REPORT_MS, 5000).
-define(IP, {127, 0, 0, 1}).

-type server() :: {Name :: http | echo, py_options:id(), PortVariable :: string(), Class :: string()}.

-spec start() -> ok.
start() ->
    _ = spawn(fun guarded/0),
    ok.

%% Nobody else would end the VM.
-spec guarded() -> no_return().
guarded() ->
    try
        run()
    catch
        Class:Reason:Stack -> give_up("the demo failed: ~tp: ~tp~n~tp", [Class, Reason, Stack])
    end.

-spec run() -> no_return().
run() ->
    ok = gen_event:swap_handler(erl_signal_server, {erl_signal_handler, []}, {?MODULE, self()}),
    %% What cannot start is said below, in words.
    ok = logger:set_module_level(supervisor, none),
    ok = lists:foreach(fun serve/1, servers()),
    ok = logger:unset_module_level(supervisor),
    print_versions(),
    report(figures(), erlang:monotonic_time(millisecond)).

-spec servers() -> [server()].
servers() ->
    [{http, 1, "HTTP_PORT", "Http"}, {echo, 2, "ECHO_PORT", "Echo"}].

-spec serve(server()) -> ok.
serve({Name, Id, Variable, Class}) ->
    Port = port(Variable),
    SetUp = [
        "import demo_servers, erlang.reactor\n",
        "erlang.reactor.set_protocol_factory(demo_servers.", Class, ")\n"
    ],
    Options = #{setup_code => SetUp, python_path => [os:getenv("EXAMPLES", "examples")]},
    case py_reactor:start_context(Id, worker, Options) of
        {ok, _} -> ok;
        {error, Reason} -> give_up("the context of ~s does not start: ~tp", [Name, Reason])
    end,
    case py_reactor:start_listener(Name, #{ip => ?IP, port => Port, contexts => [Id]}) of
        {ok, _} ->
            ok;
        {error, {listen, eaddrinuse, _}} ->
            give_up("port ~b on ~s is in use: choose another with ~s", [Port, inet:ntoa(?IP), Variable]);
        {error, {listen, Posix, _}} ->
            give_up("port ~b (~s) cannot be opened: ~s", [Port, Variable, inet:format_error(Posix)])
    end.

-spec port(string()) -> inet:port_number().
port(Variable) ->
    Text = os:getenv(Variable, ""),
    case string:to_integer(Text) of
        {Port, []} when Port >= 0, Port =< 65535 -> Port;
        _ -> give_up("~s must be a port from 0 to 65535, not \"~ts\"", [Variable, Text])
    end.

-spec give_up(string(), [term()]) -> no_return().
give_up(Format, Arguments) ->
    io:format(standard_error, "py_reactor: " ++ Format ++ "~n", Arguments),
    _ = application:stop(py_reactor),
    halt(1).

-spec print_versions() -> ok.
print_versions() ->
    #{http := #{port := Http}, echo := #{port := Echo}} = py_reactor:listeners(),
    #{py_reactor := Version, otp := Otp, python := Python, kernel := Kernel} = py:version(),
    #{backend := Backend, backend_note := Note} = py_reactor_context:stats(1),
    Ip = inet:ntoa(?IP),
    say("HTTP     http://~s:~b/~n", [Ip, Http]),
    say("echo     ~s:~b~n", [Ip, Echo]),
    say("backend  ~s~n", [[atom_to_list(Backend), [[" (", Note, ")"] || Note =/= <<>>]]]),
    say("versions py_reactor ~s, OTP ~s, Python ~s, Linux ~s~n", [Version, Otp, Python, Kernel]),
    say("SIGINT or SIGTERM ends it.~n", []).

%% One line every few seconds, until SIGTERM.
-spec report(#{atom() => map()}, integer()) -> no_return().
report(Before, SinceMs) ->
    receive
        sigterm -> stop()
    after ?REPORT_MS ->
        Now = figures(),
        NowMs = erlang:monotonic_time(millisecond),
        Lines = [line(Name, map_get(Name, Before), map_get(Name, Now), NowMs - SinceMs) || {Name, _, _, _} <- servers()],
        say("~s~n", [lists:join(" | ", Lines)]),
        report(Now, NowMs)
    end.

-spec figures() -> #{atom() => map()}.
figures() ->
    maps:from_list([{Name, stats(Id)} || {Name, Id, _, _} <- servers()]).

%% A context that is just being started again has nothing to count.
-spec stats(py_options:id()) -> map().
stats(Id) ->
    case py_reactor_context:stats(Id) of
        #{} = Stats -> Stats;
        {error, _} -> #{connections => 0, messages => 0, bytes_in => 0, bytes_out => 0}
    end.

-spec line(atom(), map(), map(), pos_integer()) -> iolist().
line(Name, Before, #{connections := Connections} = Now, PassedMs) ->
    PerSecond = fun(Key) -> max(0, map_get(Key, Now) - map_get(Key, Before)) * 1000 / PassedMs end,
    io_lib:format("~s: ~b connections, ~b messages/s, ~.2f MB/s in, ~.2f MB/s out", [
        Name, Connections, round(PerSecond(messages)), PerSecond(bytes_in) / 1.0e6, PerSecond(bytes_out) / 1.0e6
    ]).

%% Whoever read our output may be gone; that is no reason to stop serving, or not to stop.
-spec say(string(), [term()]) -> ok.
say(Format, Arguments) ->
    try
        io:format(Format, Arguments)
    catch
        error:_ -> ok
    end.

-spec stop() -> no_return().
stop() ->
    Open = lists:sum([map_get(connections, Stats) || Stats <- maps:values(figures())]),
    say("stopping: ~b open connections are drained and closed~n", [Open]),
    ok = logger:set_primary_config(level, warning),
    ok = application:stop(py_reactor),
    say("bye~n", []),
    init:stop(0),
    receive after infinity -> ok end.

%% ---- the handler of signals, in place of OTP's own, which would end the VM without a word ----

-spec init({pid(), term()}) -> {ok, pid()}.
init({Server, _OldHandler}) ->
    {ok, Server}.

-spec handle_event(atom(), pid()) -> {ok, pid()}.
handle_event(sigterm, Server) ->
    Server ! sigterm,
    {ok, Server};
handle_event(_Signal, Server) ->
    {ok, Server}.

-spec handle_call(term(), pid()) -> {ok, ok, pid()}.
handle_call(_Request, Server) ->
    {ok, ok, Server}.
