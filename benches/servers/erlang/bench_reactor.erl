%% The server that all this is about: py_reactor, with the protocols of python/reactor_protocols.py.
-module(bench_reactor).
-behaviour(bench_server).

-export([serve/1]).

-define(IP, {127, 0, 0, 1}).
%% The longest datagram, and the 144 bytes that docs/reactor.md says a buffer needs besides.
-define(DATAGRAM_BUFFER_BYTES, 65536 + 144).
-define(CONNECTIONS_MAX, 16777216).

%% The case; backend, style and mode of the contexts. TICKS and CONTEXT_CPU are for `placement'.
-spec serve([string()]) -> {ok, inet:port_number(), iodata()} | {unavailable, iodata()}.
serve([Case, Backend, Style, Mode]) ->
    {ok, _} = application:ensure_all_started(py_reactor),
    Ids = lists:seq(1, bench_server:contexts()),
    case start(Ids, list_to_atom(Mode), options(Case, Backend, Style)) of
        ok ->
            ok = tick(list_to_integer(os:getenv("TICKS", "0"))),
            {ok, listen(Case, Style, Ids), versions(Mode)};
        {error, {Kind, _, _} = Reason} when Kind =:= unsupported_mode ->
            {unavailable, io_lib:format("~0tp", [Reason])};
        {error, {setup_code, {python_error, #{type := <<"ImportError">>, message := Why}}}} ->
            {unavailable, Why};
        {error, {backend, _} = Reason} ->
            {unavailable, io_lib:format("~0tp", [Reason])}
    end.

-spec start([pos_integer()], atom(), map()) -> ok | {error, term()}.
start([], _Mode, _Options) ->
    ok;
start([Id | Ids], Mode, Options) ->
    case py_reactor:start_context(Id, Mode, Options) of
        {ok, _} -> start(Ids, Mode, Options);
        {error, _} = Error -> Error
    end.

-spec options(string(), string(), string()) -> map().
options(Case, Backend, Style) ->
    SetUp =
        case Style of
            "asyncio" -> "import event_loop_programs";
            _ -> ["import reactor_server\nreactor_server.serve('", Case, "', '", Style, "')\n"]
        end,
    Common = #{
        backend => list_to_atom(Backend),
        setup_code => SetUp,
        python_path => [os:getenv("PROTOCOLS")],
        max_connections => connections_max()
    },
    case Case of
        "udp" -> Common#{buffer_bytes => ?DATAGRAM_BUFFER_BYTES};
        _ -> maps:merge(Common, cpu(os:getenv("CONTEXT_CPU")))
    end.

-spec cpu(string() | false) -> map().
cpu(false) -> #{};
cpu(Number) -> #{cpu => list_to_integer(Number)}.

%% Starts that many processes, each of which wakes up every millisecond and does a little while somebody is connected: what
%% keeps schedulers from sleeping for long in a VM that does more than this.
-spec tick(non_neg_integer()) -> ok.
tick(Processes) ->
    _ = [spawn_link(fun ticks/0) || _ <- lists:seq(1, Processes)],
    ok.

-spec ticks() -> ok.
ticks() ->
    case py_reactor_context:stats(1) of
        #{connections := 0} ->
            timer:sleep(20),
            ticks();
        #{} ->
            lists:foreach(fun(_) -> timer:sleep(1), lists:sum(lists:seq(1, 1000)) end, lists:seq(1, 50)),
            ticks();
        {error, _} ->
            ok
    end.

%% As many as this process may have descriptors.
-spec connections_max() -> pos_integer().
connections_max() ->
    case string:to_integer(os:getenv("DESCRIPTORS_MAX", "")) of
        {Descriptors, _} when is_integer(Descriptors) -> min(Descriptors, ?CONNECTIONS_MAX);
        {error, _} -> ?CONNECTIONS_MAX
    end.

-spec listen(string(), string(), [pos_integer()]) -> inet:port_number().
listen(Case, "asyncio", Ids) ->
    lists:foldl(
        fun(Id, Port) ->
            {ok, Opened} = py:call(Id, event_loop_programs, serve_in_context, [list_to_binary(Case), Port]),
            Opened
        end,
        0,
        Ids
    );
listen("udp", _Style, Ids) ->
    lists:foldl(fun open_udp/2, 0, Ids);
listen(_Case, _Style, Ids) ->
    {ok, _} = py_reactor:start_listener(bench, #{ip => ?IP, contexts => Ids, backlog => 4096}),
    #{bench := #{port := Port}} = py_reactor:listeners(),
    Port.

-spec open_udp(pos_integer(), inet:port_number()) -> inet:port_number().
open_udp(Id, Port) ->
    {ok, Socket} = gen_udp:open(Port, [{active, false} | bench_server:udp_options()]),
    {ok, Opened} = inet:port(Socket),
    ok = py_reactor_context:handoff(Id, Socket, #{type => udp}),
    Opened.

-spec versions(string()) -> iodata().
versions(Mode) ->
    #{py_reactor := Version} = py:version(),
    {ok, Python} = py:call(1, platform, python_version, []),
    #{backend := Backend} = py_reactor_context:stats(1),
    ["py_reactor ", Version, ", ", atom_to_list(Backend), ", ", Mode, ", Python ", Python, ", "].
