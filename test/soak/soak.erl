%% The server of the soak: contexts of several kinds behind listeners, driven by lines on standard input (soak.py).
%%
%% A command is a line of words; the answer is one line that begins with `@'. Everything else on standard output is for
%% people to read.
-module(soak).

-export([start/0, log/2]).

-define(IP, {127, 0, 0, 1}).
-define(ASYNCIO, 7).
-define(SUPERVISED, 20).
-define(RESTARTED, 21).

start() ->
    _ = spawn(fun() ->
        try
            run()
        catch
            Class:Reason:Stack -> give_up("~tp", [{Class, Reason, Stack}])
        end
    end),
    ok.

run() ->
    process_flag(trap_exit, true),
    Main = self(),
    %% Reads from the start, so that this VM ends with whoever started it.
    _ = spawn_link(fun() -> read_commands(Main) end),
    Backend = list_to_atom(os:getenv("SOAK_BACKEND", "epoll")),
    Seed = list_to_integer(os:getenv("SOAK_SEED", "1")),
    Log = spawn_link(fun() -> count_logs(#{}, []) end),
    register(soak_log, Log),
    ok = logger:remove_handler(default),
    ok = logger:add_handler(soak, ?MODULE, #{}),
    lists:foreach(fun(Spec) -> start_context(Spec, Backend, Seed) end, contexts()),
    %% It owns, and is linked to, a context that no supervisor has.
    Churn = spawn_link(fun() ->
        process_flag(trap_exit, true),
        _ = start_restarted(Backend, Seed),
        churn(Backend, Seed)
    end),
    register(soak_churn, Churn),
    synced = sync(),
    lists:foreach(fun start_listener/1, listeners()),
    HandoffPort = start_handoff([socket, number, duplicate]),
    RacePort = start_handoff([closed_meanwhile, given_twice, closed_by_peer]),
    {ok, Served} = py:call(py:context(?ASYNCIO), soak_asyncio, serve, []),
    Ports =
        [{Name, map_get(port, Info)} || {Name, Info} <- maps:to_list(py_reactor:listeners())] ++
            lists:zip([aio_streams, aio_protocol, aio_udp], Served),
    answer([{handoff, HandoffPort}, {race, RacePort}, {os_pid, list_to_integer(os:getpid())} | Ports]),
    commands().

%% {Number, Label, Style, Options}. Those below 20 must serve without a fault. The pools are small, so that the load soon
%% touches all of their memory: what still grows after that is something else.
contexts() ->
    [
        {1, "direct", "direct", #{}},
        {2, "direct2", "direct", #{write_high_bytes => 65536, write_low_bytes => 0}},
        {3, "native", "native", #{}},
        {4, "document", "document", #{}},
        {5, "hoarder", "hoarder", #{}},
        %% Nothing fits: the ring runs dry, queues are full, messages come in pieces.
        {6, "tight", "mixed", #{buffers => 16, buffer_bytes => 1024, write_high_bytes => 5000, write_low_bytes => 1000}},
        {?ASYNCIO, "asyncio", "asyncio", #{}},
        {8, "awaits", "awaits", #{}},
        {?SUPERVISED, "supervised", "direct", #{}},
        {22, "crowded", "document", #{max_connections => 8}},
        {23, "timed", "direct", #{idle_timeout_ms => 700, write_stall_timeout_ms => 700}}
    ].

listeners() ->
    [
        {direct, [1, 2]},
        {native, [3]},
        {document, [4]},
        {hoarder, [5]},
        {tight, [6]},
        {awaits, [8]},
        {supervised, [?SUPERVISED]},
        {restarted, [?RESTARTED]},
        {crowded, [22]},
        {timed, [23]}
    ].

start_context({Id, Label, Style, Options}, Backend, Seed) ->
    case py_reactor:start_context(Id, worker, options(Label, Style, Options, Backend, Seed)) of
        {ok, _} -> ok;
        {error, Reason} -> give_up("context ~s does not start: ~tp", [Label, Reason])
    end.

start_restarted(Backend, Seed) ->
    Options = options("restarted", "mixed and awaits", #{}, Backend, Seed),
    case retry(50, fun() -> py_reactor_context:start_link(?RESTARTED, worker, Options) end) of
        {ok, Pid} -> Pid;
        {error, Reason} -> give_up("the context does not start again: ~tp", [Reason])
    end.

retry(Attempts, Fun) ->
    case Fun() of
        {ok, _} = Ok ->
            Ok;
        {error, {already_started, _}} when Attempts > 0 ->
            timer:sleep(100),
            retry(Attempts - 1, Fun);
        {error, _} = Error ->
            Error
    end.

options(Label, Style, Options, Backend, Seed) ->
    SetUp =
        case Style of
            "asyncio" -> "import soak_asyncio";
            "awaits" -> io_lib:format("import soak_asyncio~nsoak_asyncio.await_in_callbacks('~s', ~b)~n", [Label, Seed]);
            "mixed and awaits" -> io_lib:format("import soak_asyncio~nsoak_asyncio.mix('~s', ~b)~n", [Label, Seed]);
            _ -> io_lib:format("import soak_protocols~nsoak_protocols.serve('~s', '~s', ~b)~n", [Label, Style, Seed])
        end,
    Here = os:getenv("SOAK_DIR", "."),
    %% Small pools are touched whole during the warm-up: memory that grows after that is a leak.
    %% Whoever closes waits longer for its client than a client beside busy loops is given (STALL_SECONDS_BUSY).
    Common = #{backend => Backend, setup_code => SetUp, python_path => [Here], linger_ms => 90000, buffers => 128},
    maps:merge(Common, Options).

start_listener({Name, Contexts}) ->
    case py_reactor:start_listener(Name, #{contexts => Contexts, ip => ?IP}) of
        {ok, _} -> ok;
        {error, Reason} -> give_up("listener ~s does not start: ~tp", [Name, Reason])
    end.

give_up(Format, Args) ->
    io:format(Format ++ "~n", Args),
    io:format("@error~n"),
    timer:sleep(100),
    halt(1).

%% Connections that Erlang accepted, and hands over in each way there is.

start_handoff(Ways) ->
    {ok, Socket} = gen_tcp:listen(0, [binary, {ip, ?IP}, {active, false}, {backlog, 1024}]),
    {ok, Port} = inet:port(Socket),
    Pid = spawn_link(fun() -> receive go -> accept(Socket, Ways) end end),
    ok = gen_tcp:controlling_process(Socket, Pid),
    Pid ! go,
    Port.

accept(Listen, [Way | Ways]) ->
    case gen_tcp:accept(Listen) of
        {ok, Socket} -> hand_over(Way, Socket);
        {error, _} -> timer:sleep(10)
    end,
    accept(Listen, Ways ++ [Way]).

hand_over(closed_meanwhile, Socket) ->
    _ = spawn(fun() -> gen_tcp:close(Socket) end),
    _ = hand_over(Socket),
    gen_tcp:close(Socket);
hand_over(given_twice, Socket) ->
    Other = spawn(fun() -> _ = hand_over(Socket) end),
    Monitor = monitor(process, Other),
    _ = hand_over(Socket),
    receive
        {'DOWN', Monitor, process, Other, _} -> gen_tcp:close(Socket)
    end;
hand_over(closed_by_peer, Socket) ->
    %% Its client may be gone, and its number with it, when it is served.
    erlang:yield(),
    _ = hand_over(Socket),
    gen_tcp:close(Socket);
hand_over(Way, Socket) ->
    Result =
        case {Way, inet:getfd(Socket)} of
            {socket, _} ->
                hand_over(Socket);
            {number, {ok, Fd}} ->
                hand_over(Fd);
            {duplicate, {ok, Fd}} ->
                {ok, Duplicate} = py:dup_fd(Fd),
                _ = gen_tcp:close(Socket),
                hand_over(Duplicate)
        end,
    case Result of
        ok ->
            ok;
        {error, Reason} ->
            soak_log ! {line, unexpected, io_lib:format("handoff by ~p: ~tp", [Way, Reason])},
            gen_tcp:close(Socket)
    end.

hand_over(Socket) ->
    py_reactor_context:handoff(py:context(1), Socket, #{addr => "127.0.0.1", type => tcp}).

%% Commands.

read_commands(Main) ->
    case io:get_line("") of
        "halt\n" ->
            Main ! {command, ["halt"]};
        Line when is_list(Line) ->
            Main ! {command, string:lexemes(Line, " \n")},
            read_commands(Main);
        _Closed ->
            halt(2)
    end.

commands() ->
    receive
        {command, Words} ->
            command(Words),
            commands();
        {'EXIT', _Pid, Reason} when Reason =/= normal ->
            give_up("a process of the soak ended: ~tp", [Reason]);
        {'EXIT', _Pid, normal} ->
            commands()
    end.

command(["sample"]) ->
    answer(vm_figures() ++ sums(all_ids()));
command(["churn" | Words]) ->
    soak_churn ! {churn, Words},
    answer([]);
command(["settle"]) ->
    %% Waits for a churn under way, then for every connection to end and every buffer to come back.
    synced = sync(),
    settle(150),
    {ok, _} = python(<<"let_go">>),
    settle(100),
    true = erlang:garbage_collect(),
    _ = [erlang:garbage_collect(P) || P <- processes()],
    answer(vm_figures() ++ sums(all_ids()) ++ [{python_blocks, element(2, python(<<"blocks">>))} | of_asyncio(100)]);
command(["counts"]) ->
    {ok, Counts} = python(<<"counts">>),
    Figures = [
        {io_lib:format("~s ~s", [Key, Label]), map_get(Key, py_reactor_context:stats(Id))}
     || {Id, Label, _, _} <- contexts(), Id < 20, Key <- [accepted, closed, exceptions, refused, messages, buffers_copied]
    ],
    answer(maps:to_list(Counts) ++ Figures);
command(["logs"]) ->
    soak_log ! {report, self()},
    receive
        {logs, Kinds, Unexpected} ->
            [io:format("log: ~ts~n", [Line]) || Line <- Unexpected],
            answer([{"log " ++ atom_to_list(Kind), Count} || {Kind, Count} <- maps:to_list(Kinds)])
    end,
    case python(<<"worker_failures">>) of
        {ok, <<>>} -> ok;
        {ok, Text} -> io:format("~ts~n", [Text])
    end;
command(["about"]) ->
    #{backend := Running, backend_note := Note} = py_reactor_context:stats(1),
    {ok, Allocator} = python(<<"allocator">>),
    io:format("~p~n  backend ~p ~ts, allocator ~ts~n", [py:version(), Running, Note, Allocator]),
    answer([]);
command(["halt"]) ->
    answer([]),
    init:stop().

sync() ->
    soak_churn ! {sync, self()},
    receive
        synced -> synced
    end.

python(Function) ->
    py:call(py:context(4), soak_protocols, binary_to_atom(Function), []).

settle(0) ->
    ok;
settle(Attempts) ->
    %% A turn of each loop, so that the gauges are of now.
    _ = [py:eval(Pid, <<"1">>) || Id <- all_ids(), {ok, Pid} <- [py_reactor_table:pid(Id)]],
    case [Sum || {Key, Sum} <- sums(all_ids()), Key =:= connections orelse Key =:= buffers_lent, Sum > 0] of
        [] ->
            ok;
        _ ->
            timer:sleep(100),
            settle(Attempts - 1)
    end.

%% When the connections that asyncio has made have ended.
of_asyncio(Attempts) ->
    Count = erlang:unique_integer([positive]),
    _ = [{ok, none} = py:call(Pid, soak_asyncio, mark, [Count]) || Id <- all_ids(), {ok, Pid} <- [py_reactor_table:pid(Id)]],
    {ok, Counts} = py:call(py:context(?ASYNCIO), soak_asyncio, counts, [Count]),
    case Counts of
        #{<<"asyncio BaseTransport">> := Some} when Some > 1, Attempts > 0 ->
            timer:sleep(100),
            of_asyncio(Attempts - 1);
        _ ->
            maps:to_list(Counts)
    end.

all_ids() ->
    [?RESTARTED | [Id || {Id, _, _, _} <- contexts()]].

vm_figures() ->
    [{ports, length(erlang:ports())}, {processes, length(processes())}, {erlang_memory, erlang:memory(total)}].

sums(Ids) ->
    All = [Stats || Id <- Ids, Stats <- [py_reactor_context:stats(Id)], is_map(Stats)],
    [{Key, lists:sum([map_get(Key, Stats) || Stats <- All])} || Key <- [
        connections, accepted, refused, timed_out, exceptions, messages, bytes_in, bytes_out, buffers_lent, buffers_copied
    ]].

answer(Figures) ->
    io:format("@~ts~n", [lists:join(";", [io_lib:format("~ts=~w", [text(Key), Value]) || {Key, Value} <- Figures])]).

text(Key) when is_atom(Key) -> atom_to_list(Key);
text(Key) -> Key.

%% Contexts that come and go.

churn(Backend, Seed) ->
    receive
        {churn, ["kill", "supervised"]} ->
            {ok, Pid} = py_reactor_table:pid(?SUPERVISED),
            ended(Pid, fun() -> exit(Pid, kill) end),
            _ = retry(100, fun() -> started(?SUPERVISED) end);
        {churn, ["kill", "restarted"]} ->
            {ok, Pid} = py_reactor_table:pid(?RESTARTED),
            ended(Pid, fun() -> exit(Pid, kill) end),
            start_restarted(Backend, Seed);
        {churn, ["stop", "restarted", Ms]} ->
            ok = py_reactor_context:stop(?RESTARTED, list_to_integer(Ms)),
            start_restarted(Backend, Seed);
        {churn, ["drain", "restarted", Ms]} ->
            _ = py_reactor_context:drain(?RESTARTED, list_to_integer(Ms)),
            ok = py_reactor_context:stop(?RESTARTED, list_to_integer(Ms)),
            start_restarted(Backend, Seed);
        {churn, ["relisten"]} ->
            %% A crash: it comes back on its port.
            case [Pid || {restarted, Pid, _, _} <- supervisor:which_children(py_listener_sup), is_pid(Pid)] of
                [Pid] -> exit(Pid, kill);
                _ -> ok
            end;
        {sync, From} ->
            From ! synced;
        {'EXIT', _, _} ->
            ok
    end,
    churn(Backend, Seed).

ended(Pid, Fun) ->
    Monitor = monitor(process, Pid),
    Fun(),
    receive
        {'DOWN', Monitor, process, Pid, _} -> ok
    end.

started(Id) ->
    case py_reactor_table:pid(Id) of
        {ok, _} = Ok -> Ok;
        error -> {error, {already_started, none}}
    end.

%% Logging: what is logged on purpose is counted, the rest is shown.

log(#{level := Level, msg := Message}, _Config) ->
    soak_log ! {log, Level, Message},
    ok.

count_logs(Kinds, Unexpected) ->
    receive
        {log, Level, Message} ->
            Text = message(Message),
            record(kind(Level, Text), Text, Kinds, Unexpected);
        {line, Kind, Text} ->
            record(Kind, Text, Kinds, Unexpected);
        {report, From} ->
            From ! {logs, Kinds, lists:reverse(Unexpected)},
            count_logs(Kinds, Unexpected)
    end.

record(Kind, Text, Kinds, Unexpected) ->
    NewKinds = maps:update_with(Kind, fun(N) -> N + 1 end, 1, Kinds),
    case Kind of
        unexpected when length(Unexpected) < 20 ->
            count_logs(NewKinds, [unicode:characters_to_binary(string:slice(Text, 0, 3000)) | Unexpected]);
        _ ->
            count_logs(NewKinds, Unexpected)
    end.

message({string, Text}) -> Text;
message({report, Report}) -> io_lib:format("~tp", [Report]);
message({Format, Args}) -> io_lib:format(Format, Args).

kind(Level, Text) ->
    Patterns = [
        {panic, "panic"},
        {raised, "soak_protocols.Failure"},
        {wrong_value, "(returned|answered|must answer|is not an action|not an action)"},
        {suppressed, "suppressed [0-9]+ further"},
        {refused, "(refused|max_connections)"},
        {timed_out, "(idle|timed out|stall)"},
        {no_context, "accepts nothing for now: (no_context_runs|draining)"},
        {killed, "(failed and is started again: killed|reason,killed)"}
    ],
    Found = [Kind || {Kind, Pattern} <- Patterns, re:run(Text, Pattern, [unicode]) =/= nomatch],
    case {Found, Level} of
        {[Kind | _], _} -> Kind;
        {[], L} when L =:= debug; L =:= info; L =:= notice -> other;
        {[], _} -> unexpected
    end.
