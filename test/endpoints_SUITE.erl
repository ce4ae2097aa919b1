%% What programs do with descriptors, sockets, pipes and datagrams by the event loop of a context: the scenarios of
%% test/protocols/endpoints.py, which test/asyncio/endpoints.py runs in a plain Python.
-module(endpoints_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [with_context/3]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([all_scenarios, an_idle_context_makes_no_turns]).

all_scenarios(Config) ->
    with_context(Config, #{}, fun(Context) ->
        {ok, Names} = py:call(Context, endpoints, names, []),
        true = register(endpoints, self()),
        [?assertEqual({Name, <<"ok">>}, {Name, run(Context, Name)}) || Name <- Names]
    end).

run(Context, Name) ->
    {ok, none} = py:call(Context, endpoints, run, [endpoints, Name]),
    receive
        Said when is_binary(Said) -> Said
    after 60000 -> timeout
    end.

%% Who waits for a descriptor that is not ready costs nothing.
an_idle_context_makes_no_turns(Config) ->
    with_context(Config, #{}, fun(Context) ->
        ok = py:exec(Context, <<"
import erlang, socket
ends = socket.socketpair()
erlang.event_loop().add_reader(ends[0], print)
">>),
        Turns = fun() -> maps:get(turns, py_reactor_context:stats(Context)) end,
        ok = reactor_test:wait_until(fun() ->
            Before = Turns(),
            timer:sleep(200),
            Turns() - Before =< 1
        end)
    end).
