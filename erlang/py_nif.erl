%% @doc The native half, as the Erlang half sees it. Nothing here is for users: the functions check types only, and
%% a caller that breaks their rules (a context used by a process that does not own it, say) gets no second warning.
%% Use {@link py}, {@link py_reactor_context} and {@link py_reactor}.
%%
%% Every function returns at once, but `context_join/1' and `pause_program/1', which run on a dirty I/O scheduler, and what copies a large
%% term, which goes on on a dirty CPU scheduler.
%% @private
-module(py_nif).

-export([priv_dir/0]).
-export([
    loaded/0,
    is_known/1,
    context_start/4,
    context_stop/2,
    context_drain/3,
    context_interrupt/2,
    context_kill/1,
    context_stacks/2,
    context_load/1,
    ticket/0,
    give_up/3,
    context_join/1,
    handoff/4,
    stats/1,
    exec/3,
    eval/4,
    call/6,
    notify_arm/1,
    notify_take/1,
    connection_ask/4,
    connection_list/3,
    relay_take/0,
    answer_call/2,
    dup_fd/1,
    close_fd/1,
    allow_subprocess/1,
    pause_program/1,
    version/0,
    listen/5,
    listener_arm/1,
    listener_share/2,
    listener_is_wanted/1,
    listener_close/1
]).
-export_type([ticket/0, asker/0, ctx/0, listener/0, how/0, event/0, call_answer/0, waiter/0, reply_ref/0]).

-nifs([
    loaded/0,
    is_known/1,
    context_start/4,
    context_stop/2,
    context_drain/3,
    context_interrupt/2,
    context_kill/1,
    context_stacks/2,
    context_load/1,
    ticket/0,
    give_up/3,
    context_join/1,
    handoff/4,
    stats/1,
    exec/3,
    eval/4,
    call/6,
    notify_arm/1,
    notify_take/1,
    connection_ask/4,
    connection_list/3,
    relay_take/0,
    answer_call/2,
    dup_fd/1,
    close_fd/1,
    allow_subprocess/1,
    pause_program/1,
    version/0,
    listen/5,
    listener_arm/1,
    listener_share/2,
    listener_is_wanted/1,
    listener_close/1
]).
-on_load(load/0).

-type ctx() :: reference().
%% A running (or ended) reactor thread. A call on one that has ended answers `{error, stopped}'.
-type listener() :: reference().
%% A listening socket.
-type how() :: auto | adopt.
%% What becomes of the number: one from `dup_fd/1' is taken as it is, and closed when it is refused. With `auto', any other
%% is duplicated, and with `adopt' it is refused.
-type event() :: {log, logger:level(), Message :: binary(), Meta :: map()} | {dropped, pos_integer()}.
%% What is to be logged, and how much more there was no room for.
-type call_answer() :: reference().
%% Where the answer to a call from Python goes.
-type waiter() :: reference() | {Waiter :: pid(), reference(), Callers :: [pid()]}.
%% Who waits for a reply, if not the caller, and the contexts that wait for it meanwhile.
-type ticket() :: reference().
%% By which a request may be given up. It goes with one request to one context.
-type asker() :: waiter() | {ticket(), waiter()}.
-type reply_ref() :: asker() | undefined.
%% The reply is `{Ref, {ok, Term} | {error, Reason}}'; with `undefined' there is none.

%% Its Python and its threads end with the process only.
-define(OTHER_BUILD,
    "this module does not belong to the native library that is in use: restart the VM, or, should that not help, run "
    "`rebar3 compile' in the directory of py_reactor"
).

-spec load() -> ok | {error, {atom(), string()}}.
load() ->
    Library = filename:join(priv_dir(), "py_reactor_nif"),
    case erlang:load_nif(Library, 0) of
        ok ->
            ok = loaded(),
            ok = py_reactor_table:tell_all({?MODULE, loaded});
        {error, {load_failed, Text}} ->
            {error, {load_failed, lists:flatten([Text, " (", hint(filelib:is_regular(Library ++ ".so")), ")"])}};
        {error, {Why, Text}} when Why =:= upgrade; Why =:= bad_lib ->
            {error, {Why, lists:flatten([Text, " (", ?OTHER_BUILD, ")"])}};
        {error, _} = Error ->
            Error
    end.

-spec hint(boolean()) -> string().
hint(false) ->
    "run `rebar3 compile' in the directory of py_reactor: it builds the native library with cargo";
hint(true) ->
    "it was built on another machine, or Python has gone: what it was linked to must be at the same path here".

%% The last step of loading the library.
-spec loaded() -> ok.
loaded() ->
    erlang:nif_error(undef).

%% Whether a context, or a listener, can be used. One that was made before the library was purged (by `init:restart/0', say,
%% or `code:purge/1' after `code:delete/1') is a stranger to the library that was loaded after it.
-spec is_known(ctx() | listener()) -> boolean().
is_known(_Reference) ->
    erlang:nif_error(undef).

%% Where what is not Erlang lives. `code:priv_dir/1' knows the application in a release and in a rebar3 shell; a bare `erl -pa .../ebin' may not.
-spec priv_dir() -> file:filename_all().
priv_dir() ->
    case code:priv_dir(py_reactor) of
        {error, bad_name} ->
            filename:join(filename:dirname(filename:dirname(code:which(?MODULE))), "priv");
        Dir ->
            Dir
    end.

%% Starts a reactor thread that the calling process owns: the death of this process ends it. The owner is sent
%% `{Ref, ok | {error, Reason}}'; `{py_thread_exit, Ref, Reason}' should the thread die by itself; and in any case, when
%% the thread has only to be joined, `{py_thread_end, Ref}'.
-spec context_start(reference(), py_options:id(), py_options:mode(), py_options:native()) ->
    {ok, ctx()} | {error, term()}.
context_start(_Ref, _Id, _Mode, _Options) ->
    erlang:nif_error(undef).

%% Asks the thread to end. Connections have so long to deliver what was written.
-spec context_stop(ctx(), DrainMs :: non_neg_integer()) -> ok.
context_stop(_Ctx, _DrainMs) ->
    erlang:nif_error(undef).

%% Ends the thread as soon as it looks, and interrupts the Python code that runs on it.
-spec context_kill(ctx()) -> ok.
context_kill(_Ctx) ->
    erlang:nif_error(undef).

%% Takes no new connections; `{Ref, {ok, 0}}' when the open ones have dealt with what had arrived and are closed,
%% `{Ref, {error, {connections, N}}}' if that takes longer than `WithinMs'.
-spec context_drain(ctx(), waiter(), WithinMs :: non_neg_integer()) -> ok | {error, busy | stopped}.
context_drain(_Ctx, _Ref, _WithinMs) ->
    erlang:nif_error(undef).

%% Raises an exception in the Python code that runs, and in no other. `{Ref, {ok, none}}' when that is done,
%% `{Ref, {error, idle}}' when the code had ended before.
-spec context_interrupt(ctx(), waiter()) -> ok | {error, idle | busy | {resources, binary()}}.
context_interrupt(_Ctx, _Ref) ->
    erlang:nif_error(undef).

%% `{Ref, {ok, [{Thread, Stack}]} | {error, Why}}' as soon as Python lets another thread look: the threads of the context's
%% interpreter, its own first.
-spec context_stacks(ctx(), waiter()) -> ok | {error, busy | {resources, binary()}}.
context_stacks(_Ctx, _Ref) ->
    erlang:nif_error(undef).

%% How many commands wait for the thread, and whether Python code may be running on it.
-spec context_load(ctx()) -> {non_neg_integer(), boolean()}.
context_load(_Ctx) ->
    erlang:nif_error(undef).

%% Joins the thread, after `py_thread_end' only: it waits without limit. `panic' if it ended by a fault of the library.
-spec context_join(ctx()) -> ok | panic.
context_join(_Ctx) ->
    erlang:nif_error(undef).

-spec handoff(ctx(), integer(), py_info:info(), how()) -> ok | {error, term()}.
handoff(_Ctx, _Fd, _Info, _How) ->
    erlang:nif_error(undef).

-spec stats(ctx()) -> py_reactor_context:stats().
stats(_Ctx) ->
    erlang:nif_error(undef).

%% A new one.
-spec ticket() -> ticket().
ticket() ->
    erlang:nif_error(undef).

%% Nobody waits for that `request' any more: if it has not begun, it does not; if it runs, what runs is interrupted, and if it
%% has become a task, that is cancelled, and a step of it that runs is interrupted. Nobody waits for the `task' that it has
%% become, or becomes: that alone is. `leftovers', long after either: what still runs for it is interrupted.
-spec give_up(ctx(), ticket(), request | task | leftovers) -> ok.
give_up(_Ctx, _Ticket, _Unwanted) ->
    erlang:nif_error(undef).

-spec exec(ctx(), asker(), binary()) -> ok | {error, term()}.
exec(_Ctx, _Ref, _Code) ->
    erlang:nif_error(undef).

-spec eval(ctx(), asker(), binary(), map()) -> ok | {error, term()}.
eval(_Ctx, _Ref, _Expression, _Locals) ->
    erlang:nif_error(undef).

-spec call(ctx(), reply_ref(), binary(), binary(), list(), map()) -> ok | {error, term()}.
call(_Ctx, _Ref, _Module, _Function, _Args, _Kwargs) ->
    erlang:nif_error(undef).

%% Asks for one `{select, Notices, undefined, ready_input}' to the owner, when there is something to take.
-spec notify_arm(ctx()) -> ok.
notify_arm(_Ctx) ->
    erlang:nif_error(undef).

-spec notify_take(ctx()) -> [event()].
notify_take(_Ctx) ->
    erlang:nif_error(undef).

%% The reply is `{Ref, {ok, none} | {error, Reason}}'; to `watch' it is `{Ref, watching}', and when the
%% connection ends `{Ref, {down, Fd, Reason}}', unless the same process asks to `unwatch' first, which is not answered.
-spec connection_ask(
    ctx(), waiter(), py_reactor_context:connection(), close | {send, binary()} | {notify, term()} | watch | unwatch
) -> ok | {error, busy | stopped}.
connection_ask(_Ctx, _Ref, _Connection, _Request) ->
    erlang:nif_error(undef).

%% The reply is `{Ref, {ok, [py_reactor_context:connection_info()]}}'.
-spec connection_list(ctx(), waiter(), Whole :: boolean()) -> ok | {error, busy | stopped}.
connection_list(_Ctx, _Ref, _Whole) ->
    erlang:nif_error(undef).

%% Messages of Python for other nodes, oldest first; some of them, `[]' when there are none.
-spec relay_take() -> [{To :: pid() | {Name :: atom(), node()}, Message :: term()}].
relay_take() ->
    erlang:nif_error(undef).

%% Answers a call: `{ok, Value}', or a reason as `erlang/_calls.py' knows them. Only the first answer counts.
-spec answer_call(call_answer(), {atom(), term()}) -> ok.
answer_call(_Answer, _Result) ->
    erlang:nif_error(undef).

-spec dup_fd(integer()) -> {ok, integer()} | {error, {bad_fd, integer()} | {resources, binary()} | atom()}.
dup_fd(_Fd) ->
    erlang:nif_error(undef).

-spec close_fd(integer()) -> ok | {error, {bad_fd, integer()}}.
close_fd(_Fd) ->
    erlang:nif_error(undef).

%% Whether Python code may start programs, in the whole process, from now on.
-spec allow_subprocess(boolean()) -> ok.
allow_subprocess(_Allowed) ->
    erlang:nif_error(undef).

%% What the end of a Python program does, in the main interpreter, which goes on: runs what `atexit' knows, writes what files
%% have in memory. What takes longer is interrupted. Whether it has ended, in about a second after that.
-spec pause_program(PatienceMs :: non_neg_integer()) -> boolean().
pause_program(_PatienceMs) ->
    erlang:nif_error(undef).

-spec version() -> #{nif := binary(), python := binary(), kernel := binary(), rust := binary()}.
version() ->
    erlang:nif_error(undef).

%% The caller is told news of the listener as `{Ref, nobody_accepts}', when the last context that took its connections does no more,
%% and `{Ref, {trouble, Posix}}', when one could not accept. `ReusePort': others may listen on the same port.
-spec listen(reference(), inet:ip_address(), inet:port_number(), pos_integer(), ReusePort :: boolean()) ->
    {ok, listener(), inet:port_number()} | {error, atom() | {resources, binary()}}.
listen(_Ref, _Ip, _Port, _Backlog, _ReusePort) ->
    erlang:nif_error(undef).

%% Asks for one `{select, _, undefined, ready_input}' to the caller, when a connection waits.
-spec listener_arm(listener()) -> ok.
listener_arm(_Listener) ->
    erlang:nif_error(undef).

%% From now on the context accepts from it, until it is closed or the context drains or ends.
-spec listener_share(listener(), ctx()) -> ok | {error, stopped}.
listener_share(_Listener, _Context) ->
    erlang:nif_error(undef).

%% Whether a context accepts from it: to take connections or, where all are full, to turn them away.
-spec listener_is_wanted(listener()) -> boolean().
listener_is_wanted(_Listener) ->
    erlang:nif_error(undef).

%% From now on nobody can connect.
-spec listener_close(listener()) -> ok.
listener_close(_Listener) ->
    erlang:nif_error(undef).
