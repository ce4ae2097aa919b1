%% What becomes of a context where io_uring is refused. The refusals are real: a seccomp filter around another VM.
-module(fallback_SUITE).
-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([setup_eperm/1, setup_enosys/1, setup_enomem/1, enter_eperm/1, register_eperm/1, uring_only/1, nothing_refused/1]).

all() ->
    [setup_eperm, setup_enosys, setup_enomem, enter_eperm, register_eperm, uring_only, nothing_refused].

setup_eperm(_) -> falls_back("setup", "EPERM", "seccomp").
setup_enosys(_) -> falls_back("setup", "ENOSYS", "no io_uring").
setup_enomem(_) -> falls_back("setup", "ENOMEM", "locked memory").
%% Set-up alone proves nothing.
enter_eperm(_) -> falls_back("enter", "EPERM", "seccomp").
register_eperm(_) -> falls_back("register", "EPERM", "seccomp").

%% `uring' is an error that says what `auto' logs.
uring_only(_) ->
    Output = refused("setup", "EPERM", "{error, {backend, W}} = py_reactor_context:start_link(7, worker, #{backend => uring}),"
        "io:format(\"~s~n\", [W])"),
    ?assertMatch({match, _}, re:run(Output, "seccomp")).

%% What `uring' takes, `auto' takes as well, unless it says why it does not; and the other way round.
nothing_refused(_) ->
    Output = run([], "#{backend := Auto, backend_note := Note} = py_reactor_context:stats(py:context(1)),"
        "Forced = element(1, py_reactor_context:start_link(7, worker, #{backend => uring})),"
        "io:format(\"~p ~p ~w~n\", [Auto, Forced, Note =/= <<>>])"),
    ?assertMatch({match, _}, re:run(Output, "uring ok false|epoll (ok|error) true"), Output).

falls_back(Call, Errno, Word) ->
    Output = refused(Call, Errno, "#{backend := epoll, backend_note := N} = py_reactor_context:stats(py:context(1)),"
        "io:format(\"note: ~s~n\", [N])," ++ echo()),
    ?assertMatch({match, _}, re:run(Output, "note: io_uring: .*" ++ Word), Output),
    ?assertMatch({match, _}, re:run(Output, "epoll is used instead of io_uring"), Output),
    ?assertMatch({match, _}, re:run(Output, "echoed <<\"hello\">>"), Output).

%% A whole exchange, so that it is known to serve and not only to start.
echo() ->
    "ok = py:exec(<<\"import erlang.reactor as r\\n"
    "class P(r.Protocol):\\n"
    "    def data_received(self, data):\\n"
    "        self.write(data)\\n"
    "        return 'continue'\\n"
    "r.set_protocol_factory(P)\">>),"
    "{ok, L} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127,0,0,1}}]),"
    "{ok, Port} = inet:port(L),"
    "{ok, C} = gen_tcp:connect({127,0,0,1}, Port, [binary, {active, false}]),"
    "{ok, S} = gen_tcp:accept(L),"
    "ok = py_reactor_context:handoff(S, #{type => tcp}),"
    "ok = gen_tcp:send(C, <<\"hello\">>),"
    "{ok, D} = gen_tcp:recv(C, 5, 20000),"
    "io:format(\"echoed ~p~n\", [D])".

refused(Call, Errno, Code) ->
    Script = filename:join([code:lib_dir(py_reactor), "test", "refuse_io_uring.py"]),
    Python = os:getenv("PYTHON", "python3"),
    run([os:find_executable(Python), Script, Call, Errno], Code).

%% Another VM, with this one's code path, that evaluates Code and ends.
run(Prefix, Code) ->
    Erl = os:find_executable("erl"),
    Ebin = filename:dirname(code:which(py)),
    Whole = "{ok, _} = application:ensure_all_started(py_reactor), " ++ Code ++ ", halt().",
    [Program | Arguments] = Prefix ++ [Erl, "-noshell", "-pa", Ebin, "-eval", Whole],
    Port = open_port({spawn_executable, Program}, [
        {args, Arguments}, {env, [{"PY_REACTOR_BACKEND", false}]}, exit_status, stderr_to_stdout, use_stdio
    ]),
    {0, Output} = collect(Port, []),
    Output.

collect(Port, Sofar) ->
    receive
        {Port, {data, Data}} -> collect(Port, [Sofar | Data]);
        {Port, {exit_status, Status}} -> {Status, lists:flatten(Sofar)}
    after 60000 -> ct:fail({no_end, lists:flatten(Sofar)})
    end.
