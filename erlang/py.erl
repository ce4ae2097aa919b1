%% @doc Python from Erlang: run code, call functions, in a context of your choice.
%%
%% A context is a pid or its number; where none is given it is context 1. A context that does not run is started by
%% {@link context/1} and by the functions without a context, with default options.
%%
%% A request waits in the queue of the context's thread, then for Python: while it runs, the connections of that context
%% wait, and nobody else does. With a timeout, in milliseconds, the wait ends by then with `{error, timeout}': a request that
%% has not begun is dropped, and Python code that runs for it is interrupted, as by {@link
%% py_reactor_context:interrupt/1}, and nothing else is. (Starting a context that does not run takes its own time.) Without
%% one, it waits without limit. Should the context end meanwhile, the answer is `{error, {context_down, Reason}}'. The other
%% errors of all functions:
%% <ul>
%% <li>`{python_error, #{type, message, traceback}}': Python raised; the three are binaries</li>
%% <li>`{unsupported_term, Why}': an argument or the result has no counterpart on the other side</li>
%% <li>`{bad_argument, Name, Value, Why}': found before Python was asked</li>
%% <li>`{would_deadlock, Why}': that context waits for the process that asks, see {@link register_function/2}</li>
%% <li>`busy': too many requests are queued; `stopped', `{no_context, Context}': there is no such context (any more)</li>
%% </ul>
%%
%% Terms: integers, floats, binaries (`str' if they are UTF-8, else `bytes'; `{bytes, Binary}' always `bytes'), atoms
%% (`str', but `true', `false', and `none', `nil', `undefined' for `None'), lists, tuples, maps; pids and references come
%% back as they were; `erlang.atom(name)' becomes an atom. Python's `str' and `bytes' become binaries.
-module(py).

-export([start_contexts/0, start_contexts/1, contexts/0, contexts/1, context/0, context/1]).
-export([exec/1, exec/2, exec/3, eval/1, eval/2, eval/3, eval/4]).
-export([call/3, call/4, call/5, call/6, cast/3, cast/4, cast/5]).
-export([register_function/2, register_function/3, unregister_function/1]).
-export([dup_fd/1, close_fd/1, version/0]).
-export_type([code/0, name/0, kwargs/0, result/0, request_error/0]).

-type context() :: py_reactor_context:context().
-type target() :: context() | default.
-type code() :: unicode:chardata().
-type name() :: atom() | unicode:chardata().
-type kwargs() :: #{name() => term()}.
-define(IS_CONTEXT(C), (is_pid(C) orelse is_integer(C))).
-define(IS_TEXT(T), (is_binary(T) orelse is_list(T))).

-type request_error() ::
    timeout
    | {python_error, #{type := binary(), message := binary(), traceback := binary()}}
    | {unsupported_term, binary()}
    | {bad_argument, atom(), term(), binary()}
    | {context_down, term()}
    | {no_context, term()}
    | {would_deadlock, binary()}
    | busy
    | stopped
    | term().
-type result() :: {ok, term()} | {error, request_error()}.

%% @doc As `start_contexts(1)'. In mode `worker' all contexts share one GIL, so that more of them keep slow callbacks
%% apart but compute nothing faster.
-spec start_contexts() -> {ok, [pid()]} | {error, term()}.
start_contexts() ->
    start_contexts(1).

%% @doc Sees to it that contexts 1 to `Count' run, and returns them in that order.
%%
%% Given a number, contexts that run already are left as they are. Given a map with options (`count', or `contexts', which is
%% the same; `mode', and those of {@link py_options:options()}), all are started with them: one that runs already is an error,
%% `{already_started, Pid}'. When one fails to start, those that this call started are stopped again.
-spec start_contexts(pos_integer() | map()) -> {ok, [pid()]} | {error, term()}.
start_contexts(Count) when is_integer(Count) ->
    start_each(Count, fun py_context_sup:ensure/1);
start_contexts(#{count := _, contexts := Count}) ->
    {error, {bad_option, contexts, Count, <<"is the same as count: give one of them">>}};
start_contexts(#{contexts := Count} = Settings) ->
    start_contexts((maps:remove(contexts, Settings))#{count => Count});
start_contexts(Settings) when is_map(Settings) ->
    Mode = maps:get(mode, Settings, worker),
    Options = maps:without([count, mode], Settings),
    start_each(maps:get(count, Settings, 1), fun(Id) -> py_context_sup:start_context(Id, Mode, Options) end).

-spec start_each(term(), fun((py_options:id()) -> {ok, pid()} | {error, term()})) -> {ok, [pid()]} | {error, term()}.
start_each(Count, Start) when is_integer(Count), Count > 0 ->
    start_each(lists:seq(1, Count), Start, contexts(), []);
start_each(Count, _Start) ->
    {error, {bad_option, count, Count, <<"must be an integer from 1">>}}.

-spec start_each([py_options:id()], fun((py_options:id()) -> {ok, pid()} | {error, term()}), [pid()], [pid()]) ->
    {ok, [pid()]} | {error, term()}.
start_each([], _Start, _Before, Pids) ->
    {ok, lists:reverse(Pids)};
start_each([Id | Ids], Start, Before, Pids) ->
    case Start(Id) of
        {ok, Pid} ->
            start_each(Ids, Start, Before, [Pid | Pids]);
        {error, _} = Error ->
            _ = [py_reactor_context:stop(Pid) || Pid <- Pids, not lists:member(Pid, Before)],
            Error
    end.

%% @doc The contexts that run, in the order of their numbers.
-spec contexts() -> [pid()].
contexts() ->
    [Pid || {_Id, Pid} <- py_reactor_table:pids()].

%% @doc The same, each with its number.
-spec contexts(numbered) -> [{py_options:id(), pid()}].
contexts(numbered) ->
    py_reactor_table:pids().

%% @doc As `context(1)'.
-spec context() -> pid().
context() ->
    context(1).

%% @doc The context of that number, started with default options if it does not run. An error of
%% `py_reactor_context:start_link/3' is raised, as `error({context, Id, Reason})'.
-spec context(py_options:id()) -> pid().
context(Id) ->
    case started(Id) of
        {ok, Pid} -> Pid;
        {error, Reason} -> error({context, Id, Reason})
    end.

-spec started(term()) -> {ok, pid()} | {error, term()}.
started(Id) when is_integer(Id), Id > 0 ->
    py_context_sup:ensure(Id);
started(Id) ->
    {error, {bad_id, Id, <<"the number of a context is an integer from 1">>}}.

%% @doc As `exec(1, Code)'.
-spec exec(code()) -> ok | {error, request_error()}.
exec(Code) ->
    run_exec(default, Code, infinity).

%% @doc As `exec(1, Code, Timeout)' when the first argument is text, else as `exec(Context, Code, infinity)'.
-spec exec(context() | code(), code() | timeout()) -> ok | {error, request_error()}.
exec(Code, Timeout) when ?IS_TEXT(Code) ->
    run_exec(default, Code, Timeout);
exec(Context, Code) ->
    run_exec(Context, Code, infinity).

%% @doc Runs statements in the globals of a context.
-spec exec(context(), code(), timeout()) -> ok | {error, request_error()}.
exec(Context, Code, Timeout) ->
    run_exec(Context, Code, Timeout).

%% @doc As `eval(1, Expression, #{})'.
-spec eval(code()) -> result().
eval(Expression) ->
    run_eval(default, Expression, #{}, infinity).

%% @doc As `eval(1, Expression, Locals)' when the first argument is text, else as `eval(Context, Expression, #{})'.
-spec eval(context() | code(), code() | kwargs()) -> result().
eval(Expression, Locals) when ?IS_TEXT(Expression) ->
    run_eval(default, Expression, Locals, infinity);
eval(Context, Expression) ->
    run_eval(Context, Expression, #{}, infinity).

%% @doc As `eval(1, Expression, Locals, Timeout)' when the first argument is text, else as
%% `eval(Context, Expression, Locals, infinity)'.
-spec eval(context() | code(), code() | kwargs(), kwargs() | timeout()) -> result().
eval(Expression, Locals, Timeout) when ?IS_TEXT(Expression) ->
    run_eval(default, Expression, Locals, Timeout);
eval(Context, Expression, Locals) ->
    run_eval(Context, Expression, Locals, infinity).

%% @doc The value of an expression, which sees the globals of a context and these local names.
-spec eval(context(), code(), kwargs(), timeout()) -> result().
eval(Context, Expression, Locals, Timeout) ->
    run_eval(Context, Expression, Locals, Timeout).

%% @doc As `call(1, Module, Function, Args, #{})'.
-spec call(name(), name(), list()) -> result().
call(Module, Function, Args) ->
    run_call(default, Module, Function, Args, #{}, infinity).

%% @doc As `call(Context, Module, Function, Args, #{})' when the first argument is a context, else as
%% `call(1, Module, Function, Args, Kwargs)'.
-spec call(context() | name(), name(), name() | list(), list() | kwargs()) -> result().
call(Context, Module, Function, Args) when ?IS_CONTEXT(Context) ->
    run_call(Context, Module, Function, Args, #{}, infinity);
call(Module, Function, Args, Kwargs) ->
    run_call(default, Module, Function, Args, Kwargs, infinity).

%% @doc As `call(Context, Module, Function, Args, Kwargs, infinity)' when the first argument is a context, else as
%% `call(1, Module, Function, Args, Kwargs, Timeout)'.
-spec call(context() | name(), name(), name() | list(), list() | kwargs(), kwargs() | timeout()) -> result().
call(Context, Module, Function, Args, Kwargs) when ?IS_CONTEXT(Context); is_map(Kwargs) ->
    run_call(Context, Module, Function, Args, Kwargs, infinity);
call(Module, Function, Args, Kwargs, Timeout) ->
    run_call(default, Module, Function, Args, Kwargs, Timeout).

%% @doc Calls a function of a module, which is imported if need be; `<<"__main__">>' is the context's own globals. If the
%% function returns a coroutine, as an `async def' does, that becomes a task on the context's event loop: the context goes on
%% serving, and the answer comes when the task ends. It is cancelled when the time is over, or the caller has died.
-spec call(context(), name(), name(), list(), kwargs(), timeout()) -> result().
call(Context, Module, Function, Args, Kwargs, Timeout) ->
    run_call(Context, Module, Function, Args, Kwargs, Timeout).

%% @doc As `cast(1, Module, Function, Args, #{})'.
-spec cast(name(), name(), list()) -> ok | {error, request_error()}.
cast(Module, Function, Args) ->
    queue_call(default, Module, Function, Args, #{}).

%% @doc As `cast(Context, Module, Function, Args, #{})' when the first argument is a context, else as
%% `cast(1, Module, Function, Args, Kwargs)'.
-spec cast(context() | name(), name(), name() | list(), list() | kwargs()) -> ok | {error, request_error()}.
cast(Context, Module, Function, Args) when ?IS_CONTEXT(Context) ->
    queue_call(Context, Module, Function, Args, #{});
cast(Module, Function, Args, Kwargs) ->
    queue_call(default, Module, Function, Args, Kwargs).

%% @doc As {@link call/5}, but returns as soon as the call is queued. An exception is logged.
-spec cast(context(), name(), name(), list(), kwargs()) -> ok | {error, request_error()}.
cast(Context, Module, Function, Args, Kwargs) ->
    queue_call(Context, Module, Function, Args, Kwargs).

%% @doc Lets Python call a function, by `erlang.call(name, *args)': any fun, which takes as many arguments as are passed.
%% What was registered under the name before is replaced. The application keeps it until it stops, or until
%% {@link unregister_function/1}.
%%
%% Each call runs in a process of its own, at most 1024 at a time. The context that called waits, and serves nobody else. So the
%% function must not wait for that context: `py:call' and its like, `py_reactor_context:send', `close', `notify',
%% `connections', `drain' and `stop' answer `{error, {would_deadlock, Why}}' at once, for every context that waits for the
%% function, also by way of another context. Other contexts may be called. Some circles are not known, and end by the timeout of
%% `erlang.call'; the reference names them.
-spec register_function(name(), fun()) -> ok | {error, {bad_argument, atom(), term(), binary()} | term()}.
register_function(Name, Function) when is_function(Function) ->
    put_function(Name, Function);
register_function(_Name, Other) ->
    {error, {bad_argument, function, Other, <<"must be a fun; or give a module and the name of its function">>}}.

%% @doc As {@link register_function/2}, of an exported function. It is looked up for each call, so that new code is used.
-spec register_function(name(), module(), Function :: atom()) ->
    ok | {error, {bad_argument, atom(), term(), binary()} | term()}.
register_function(Name, Module, Function) when is_atom(Module), is_atom(Function) ->
    put_function(Name, {Module, Function});
register_function(_Name, Module, Function) ->
    {error, {bad_argument, function, {Module, Function}, <<"a module and a function are atoms">>}}.

%% @doc Python cannot call it any more. Calls that run go on.
-spec unregister_function(name()) -> ok | {error, {bad_argument, atom(), term(), binary()} | term()}.
unregister_function(Name) ->
    with_function_name(Name, fun py_reactor_table:delete_function/1).

-spec put_function(name(), py_functions:callable()) -> ok | {error, term()}.
put_function(Name, Function) ->
    with_function_name(Name, fun(Text) -> py_reactor_table:put_function(Text, Function) end).

-spec with_function_name(term(), fun((binary()) -> ok)) -> ok | {error, term()}.
with_function_name(Name, Do) ->
    case {py_request:encode([{function, Name}]), py_reactor_on_demand:ensure_started()} of
        {{ok, [Text]}, ok} when is_binary(Text) -> Do(Text);
        {{error, _} = Error, _} -> Error;
        {_, {error, _} = Error} -> Error
    end.

%% @doc Duplicates a descriptor, for `py_reactor_context:handoff', which closes it whatever it answers. The duplicate is
%% closed on exec. One that is not handed over is yours: end it with {@link close_fd/1}.
-spec dup_fd(integer()) -> {ok, integer()} | {error, {bad_fd, term()} | {resources, binary()} | term()}.
dup_fd(Fd) when is_integer(Fd), Fd >= 0, Fd =< 16#7FFFFFFF ->
    case py_reactor_on_demand:ensure_started() of
        ok -> py_nif:dup_fd(Fd);
        {error, _} = Error -> Error
    end;
dup_fd(Other) ->
    {error, {bad_fd, Other}}.

%% @doc Closes a duplicate that {@link dup_fd/1} made and nobody has handed over. Anything else is `{error, {bad_fd, Fd}}' and
%% left alone, a number that names something else by now included.
-spec close_fd(integer()) -> ok | {error, {bad_fd, term()} | term()}.
close_fd(Fd) when is_integer(Fd), Fd >= 0, Fd =< 16#7FFFFFFF ->
    case py_reactor_on_demand:ensure_started() of
        ok -> py_nif:close_fd(Fd);
        {error, _} = Error -> Error
    end;
close_fd(Other) ->
    {error, {bad_fd, Other}}.

%% @doc Which versions of what are in use: of the application (`py_reactor'), the native library (`nif'), `python',
%% `otp', the `kernel', and the compiler of the library (`rust').
-spec version() -> #{atom() => binary()} | {error, term()}.
version() ->
    case py_reactor_on_demand:ensure_started() of
        ok ->
            {ok, Version} = application:get_key(py_reactor, vsn),
            maps:merge(py_nif:version(), #{
                py_reactor => list_to_binary(Version),
                otp => list_to_binary(erlang:system_info(otp_release))
            });
        {error, _} = Error ->
            Error
    end.

-spec run_exec(target(), term(), term()) -> ok | {error, request_error()}.
run_exec(Target, Code, Timeout) ->
    Send = fun(Ctx, Ref, [Text]) -> py_nif:exec(Ctx, Ref, Text) end,
    case run(Target, [{code, Code}], Timeout, Send) of
        {ok, _None} -> ok;
        {error, _} = Error -> Error
    end.

-spec run_eval(target(), term(), term(), term()) -> result().
run_eval(Target, Expression, Locals, Timeout) ->
    Send = fun(Ctx, Ref, [Text, Names]) -> py_nif:eval(Ctx, Ref, Text, Names) end,
    run(Target, [{expression, Expression}, {locals, Locals}], Timeout, Send).

-spec run_call(target(), term(), term(), term(), term(), term()) -> result().
run_call(Target, Module, Function, Args, Kwargs, Timeout) ->
    Send = fun(Ctx, Ref, [M, F, A, K]) -> py_nif:call(Ctx, Ref, M, F, A, K) end,
    case prepared(Target, [{timeout, Timeout} | call_arguments(Module, Function, Args, Kwargs)]) of
        {ok, Pid, Ctx, [Limit | Encoded]} ->
            py_request:run_or_cancel(Pid, Ctx, fun(Ref) -> Send(Ctx, Ref, Encoded) end, Limit);
        {error, _} = Error ->
            Error
    end.

-spec run(target(), [py_request:argument()], term(), Send) -> result() when
    Send :: fun((py_nif:ctx(), py_nif:asker(), list()) -> ok | {error, term()}).
run(Target, Arguments, Timeout, Send) ->
    case prepared(Target, [{timeout, Timeout} | Arguments]) of
        {ok, Pid, Ctx, [Limit | Encoded]} ->
            py_request:run_or_give_up(Pid, Ctx, fun(Ref) -> Send(Ctx, Ref, Encoded) end, Limit);
        {error, _} = Error ->
            Error
    end.

-spec queue_call(target(), term(), term(), term(), term()) -> ok | {error, request_error()}.
queue_call(Target, Module, Function, Args, Kwargs) ->
    case prepared(Target, call_arguments(Module, Function, Args, Kwargs)) of
        {ok, _Pid, Ctx, [M, F, A, K]} -> py_nif:call(Ctx, undefined, M, F, A, K);
        {error, _} = Error -> Error
    end.

-spec call_arguments(term(), term(), term(), term()) -> [py_request:argument()].
call_arguments(Module, Function, Args, Kwargs) ->
    [{module, Module}, {function, Function}, {args, Args}, {kwargs, Kwargs}].

-spec prepared(target(), [py_request:argument()]) -> {ok, pid(), py_nif:ctx(), list()} | {error, request_error()}.
prepared(default, Arguments) ->
    case py_context_sup:ensure(1) of
        {ok, Pid} -> prepared(Pid, Arguments);
        {error, _} = Error -> Error
    end;
prepared(Context, Arguments) ->
    case {py_context_lookup:resolve(Context), py_request:encode(Arguments)} of
        {{ok, Pid, Ctx}, {ok, Encoded}} -> {ok, Pid, Ctx, Encoded};
        {{error, _} = Error, _} -> Error;
        {_, {error, _} = Error} -> Error
    end.
