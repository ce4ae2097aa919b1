%% What the suites share: contexts on a backend, connections whose server end is handed over, and waiting for conditions.
-module(reactor_test).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-export([backends/0, mode/1, backend_groups/1, backend_groups/2, backend_groups/3, transport_groups/1, init_group/2]).
-export([long/1, times/2, undisturbed/1]).
-export([new_id/0, options/2, python_path/0, factory/1, with_context/3, apart/2, has_own_gil/0, serving/3, serving/4, allowing_subprocess/1]).
-export([pair/1, pair/2, client/2, client/3, client/4, tag/0]).
-export([send/2, expect/2, expect_eof/1, receive_bytes/2, receive_all/1, reset/1]).
-export([events/2, methods/2, wait_event/3, wait_lost/2, wait_connections/2]).
-export([hold/1, wait_queued/2]).
-export([wait_until/1, wait_until/2, wait_equal/2, register_self/0, said/1]).

%% Every suite runs its cases on each of these: either backend in the main interpreter, and an interpreter of its own. With
%% another Python than the usual one, what no Python changes need not be shown again: CORE names the backend of its contexts in
%% the main interpreter (scripts/test_matrix.sh).
backends() ->
    workers() ++ [subinterp].

workers() ->
    case os:getenv("CORE") of
        false -> [uring, epoll];
        Backend -> [list_to_atom(Backend)]
    end.

transports() ->
    case os:getenv("CORE") of
        false -> [tcp, unix];
        _ -> [tcp]
    end.

%% The mode of the contexts of a group.
mode(Config) ->
    proplists:get_value(mode, Config, worker).

%% Groups named after them, each with all the cases.
backend_groups(Cases) ->
    backend_groups(Cases, []).

%% The same, with cases that look at a context from another one, which must share its interpreter.
backend_groups(Cases, Shared) ->
    backend_groups(Cases, Shared, []).

%% The same, with cases that wait for long. `make test' has time for each backend and each mode once: for epoll in the main
%% interpreter, and for an interpreter of its own, whose contexts are io_uring's.
backend_groups(Cases, Shared, Slow) ->
    Chosen = case long(Slow) of Slow -> workers(); [] -> [lists:last(workers())] end,
    [{Worker, [], Cases ++ Shared ++ [Case || Case <- Slow, lists:member(Worker, Chosen)]} || Worker <- workers()] ++
        [{subinterp, [], Cases ++ Slow}].

%% The same, over each kind of stream socket.
transport_groups(Cases) ->
    [{Transport, [], Cases} || Transport <- transports()] ++
        backend_groups([{group, Transport} || Transport <- transports()]).

%% Cases that take long, or fetch something: `make test-full' alone runs them, by the variable LONG.
long(Cases) ->
    case os:getenv("LONG") of
        "1" -> Cases;
        _ -> []
    end.

%% How often what takes long is repeated: the second, which `make test-full' has time for.
times(Few, Many) ->
    case long([many]) of
        [many] -> Many;
        [] -> Few
    end.

%% Cases that faults (src/driver/faults.rs) would spoil: a connection is reset, a send is short, or something is late.
undisturbed(Cases) ->
    [Case || Case <- Cases, os:getenv("PY_REACTOR_FAULTS") =:= false].

init_group(Transport, Config) when Transport =:= tcp; Transport =:= unix ->
    [{transport, Transport} | Config];
init_group(subinterp, Config) ->
    %% By io_uring, where that works.
    init_group(auto, [{mode, subinterp} | Config]);
init_group(owngil, Config) ->
    case py_reactor_context:start_link(new_id(), owngil, #{}) of
        {ok, Pid} ->
            ok = py_reactor_context:stop(Pid),
            init_group(auto, [{mode, owngil} | Config]);
        {error, {unsupported_mode, _, _} = Why} ->
            {skip, Why}
    end;
init_group(Backend, Config) ->
    case py_reactor_context:start_link(new_id(), worker, #{backend => Backend}) of
        {ok, Pid} ->
            ok = py_reactor_context:stop(Pid),
            [{backend, Backend} | Config];
        {error, {backend, Why}} ->
            {skip, Why}
    end.

%% Contexts.

new_id() ->
    100000 + erlang:unique_integer([positive, monotonic]).

options(Config, Options) ->
    maps:merge(#{backend => ?config(backend, Config), python_path => [python_path()]}, Options).

python_path() ->
    filename:join(filename:dirname(code:which(?MODULE)), "protocols").

%% Set-up code that makes "module.Factory" the factory.
factory(Name) ->
    [Module | _] = string:split(Name, "."),
    io_lib:format("import ~s~nimport erlang.reactor~nerlang.reactor.set_protocol_factory(~s)~n", [Module, Name]).

%% A context in an interpreter of its own.
apart(Config, SetUp) ->
    {ok, Context} = py_reactor_context:start_link(new_id(), subinterp, options(Config, #{setup_code => SetUp})),
    Context.

%% Such an interpreter has a GIL of its own, too.
has_own_gil() ->
    {ok, Has} = py:eval("__import__('sys').version_info >= (3, 12)"),
    Has.

with_context(Config, Options, Fun) ->
    {ok, Pid} = py_reactor_context:start_link(new_id(), mode(Config), options(Config, Options)),
    try
        Fun(Pid)
    after
        py_reactor_context:stop(Pid, 100)
    end.

serving(Config, Factory, Fun) ->
    serving(Config, Factory, #{}, Fun).

serving(Config, Factory, Options, Fun) ->
    with_context(Config, Options#{setup_code => factory(Factory)}, Fun).

%% With contexts that may start programs.
allowing_subprocess(Fun) ->
    restart(true),
    try
        Fun()
    after
        restart(false)
    end.

restart(AllowSubprocess) ->
    ok = application:stop(py_reactor),
    ok = application:set_env(py_reactor, allow_subprocess, AllowSubprocess),
    {ok, _} = application:ensure_all_started(py_reactor).

%% Connections.

pair(Config) ->
    pair(Config, []).

%% Both ends of a connection: {Client, Server}.
pair(Config, Options) ->
    All = [binary, {active, false} | Options],
    {Listen, Address, Port} =
        case proplists:get_value(transport, Config, tcp) of
            tcp ->
                {ok, L} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}} | All]),
                {ok, P} = inet:port(L),
                {L, {127, 0, 0, 1}, P};
            unix ->
                Path = filename:join("/tmp", "py_reactor_" ++ os:getpid() ++ integer_to_list(new_id())),
                {ok, L} = gen_tcp:listen(0, [{ifaddr, {local, Path}} | All]),
                {L, {local, Path}, 0}
        end,
    {ok, Client} = gen_tcp:connect(Address, Port, All),
    {ok, Server} = gen_tcp:accept(Listen),
    gen_tcp:close(Listen),
    _ = [file:delete(File) || {local, File} <- [Address]],
    {Client, Server}.

client(Context, Config) ->
    client(Context, Config, #{}).

client(Context, Config, Info) ->
    client(Context, Config, Info, []).

%% A connection that the context serves: {Client, Tag}.
client(Context, Config, Info, SocketOptions) ->
    {Client, Server} = pair(Config, SocketOptions),
    Tag = maps:get(tag, Info, tag()),
    ok = py_reactor_context:handoff(Context, Server, maps:merge(#{addr => {127, 0, 0, 1}, port => 4711, type => tcp, tag => Tag}, Info)),
    {Client, Tag}.

tag() ->
    integer_to_binary(new_id()).

send(Client, Data) ->
    ok = gen_tcp:send(Client, Data).

expect(Client, Data) ->
    Expected = iolist_to_binary(Data),
    ?assertEqual({ok, Expected}, receive_bytes(Client, byte_size(Expected))).

%% So many bytes, each piece of which has its time: how long all of them take is the machine's affair.
receive_bytes(Client, Count) ->
    receive_bytes(Client, Count, []).

receive_bytes(Client, Left, Parts) ->
    case gen_tcp:recv(Client, min(Left, 65536), 30000) of
        {ok, Part} when byte_size(Part) < Left -> receive_bytes(Client, Left - byte_size(Part), [Part | Parts]);
        {ok, Part} -> {ok, iolist_to_binary(lists:reverse([Part | Parts]))};
        {error, _} = Error -> Error
    end.

expect_eof(Client) ->
    ?assertEqual({error, closed}, gen_tcp:recv(Client, 0, 30000)).

%% All bytes up to EOF; a reset is an error.
receive_all(Client) ->
    ok = inet:setopts(Client, [{show_econnreset, true}]),
    receive_all(Client, []).

receive_all(Client, Parts) ->
    case gen_tcp:recv(Client, 0, 30000) of
        {ok, Part} -> receive_all(Client, [Part | Parts]);
        {error, closed} -> iolist_to_binary(lists:reverse(Parts))
    end.

%% Ends a connection without a farewell.
reset(Client) ->
    ok = inet:setopts(Client, [{linger, {true, 0}}]),
    gen_tcp:close(Client).

%% What recorder.py has written down.

events(Context, Tag) ->
    {ok, Events} = py:call(Context, recorder, events, [Tag]),
    Events.

methods(Context, Tag) ->
    [Method || {Method, _Detail} <- events(Context, Tag)].

wait_event(Context, Tag, Method) ->
    wait_until({event, Method}, fun() -> lists:member(Method, methods(Context, Tag)) end).

%% Waits for the end of a connection, and checks that its life was one: made first, lost last and once.
wait_lost(Context, Tag) ->
    wait_event(Context, Tag, <<"connection_lost">>),
    Methods = methods(Context, Tag),
    ?assertEqual(<<"connection_made">>, hd(Methods)),
    ?assertEqual({<<"connection_lost">>, <<"closed">>}, lists:last(events(Context, Tag))),
    ?assertEqual(1, length([M || M <- Methods, M =:= <<"connection_lost">>])),
    ?assertEqual(1, length([M || M <- Methods, M =:= <<"connection_made">>])),
    Methods.

wait_connections(Context, Count) ->
    wait_equal(Count, fun() -> maps:get(connections, py_reactor_context:stats(Context)) end).

%% Threads that are held up.

%% Has the context run Python code until the process that is answered is sent `open'.
hold(Context) ->
    Test = self(),
    Name = tag(),
    ok = py:register_function(Name, fun() ->
        Test ! {held, self()},
        receive
            open -> none
        end
    end),
    _ = spawn(fun() -> py:eval(Context, "__import__('erlang').call(name, timeout=None)", #{name => Name}) end),
    receive
        {held, Gate} -> Gate
    after 30000 -> error(not_held)
    end.

%% Waits until so many requests, and connections that were handed over, wait for a thread that is held up.
wait_queued(Context, Count) ->
    {ok, _, Ctx} = py_context_lookup:resolve(Context),
    wait_until({queued, Count}, fun() -> element(1, py_nif:context_load(Ctx)) >= Count end).

%% Waiting.

wait_until(Condition) ->
    wait_until(condition, Condition).

wait_until(What, Condition) ->
    wait(What, Condition, fun(Value) -> Value =:= true end, deadline()).

wait_equal(Expected, Fun) ->
    wait({equal, Expected}, Fun, fun(Value) -> Value =:= Expected end, deadline()).

%% A name of its own for the calling process, as Python code sends to it. Registered until the process ends.
register_self() ->
    Name = "test_" ++ integer_to_list(erlang:unique_integer([positive])),
    true = register(list_to_atom(Name), self()),
    list_to_binary(Name).

%% Waits until the process is told What.
said(What) ->
    receive
        What -> ok
    after 60000 -> error({never_said, What})
    end.

%% When waiting is over: by then, but not before so many looks. On a machine where nobody gets on, this VM does not either, and
%% its clock alone says nothing.
deadline() ->
    {erlang:monotonic_time(millisecond) + 30000, 100}.

wait(What, Fun, Good, {Deadline, Looks}) ->
    Value = Fun(),
    case Good(Value) of
        true ->
            ok;
        false ->
            case Looks =< 0 andalso erlang:monotonic_time(millisecond) > Deadline of
                true ->
                    error({gave_up_waiting, What, {last, Value}});
                false ->
                    receive
                    after 5 -> ok
                    end,
                    wait(What, Fun, Good, {Deadline, Looks - 1})
            end
    end.
