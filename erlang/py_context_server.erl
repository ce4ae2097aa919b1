%% @doc The process of a context: starts the reactor thread, logs what it reports, and sees it to its end.
%%
%% It owns the native context, which watches it: should this process be killed, the native half closes the connections
%% and ends the thread by itself.
%% @private
-module(py_context_server).
-behaviour(gen_server).

-export([start_link/3, ask_to_stop/2, await/1, await_end/1, settings/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-record(state, {
    id :: py_options:id(),
    ctx :: py_nif:ctx() | lost,
    ref :: reference(),
    mode :: py_options:mode(),
    options :: py_options:complete(),
    drain_ms :: non_neg_integer(),
    log = py_reactor_log:new() :: py_reactor_log:limit(),
    ticking = false :: boolean(),
    %% A message that nobody knows has come.
    puzzled = false :: boolean()
}).

%% Beyond the time to drain, for a thread that is in the middle of a callback: it waits for the kernel and then for other
%% threads, SHUT_DOWN_MS of src/base/config.rs each. A supervisor allows for it.
-define(STOP_MARGIN_MS, 4000).

-spec start_link(py_options:id(), py_options:mode(), py_options:complete()) -> {ok, pid()} | {error, term()}.
start_link(Id, Mode, Options) ->
    Ref = make_ref(),
    case gen_server:start_link(?MODULE, {self(), Ref, Id, Mode, Options}, []) of
        {ok, Pid} -> {ok, Pid};
        ignore -> refusal(Ref);
        {error, _} = Error -> Error
    end.

%% Before OTP 26 a gen_server whose init fails takes a linked caller that does not trap exits along. So init refuses with
%% `ignore', which is a normal exit, and says why in a message of its own.
-spec refusal(reference()) -> {error, term()}.
refusal(Ref) ->
    receive
        {Ref, Pid, Reason} ->
            unlink(Pid),
            receive
                {'EXIT', Pid, _} -> ok
            after 0 -> ok
            end,
            {error, Reason}
    end.

%% A plain message, because a context that is still starting listens to it as well.
-spec ask_to_stop(pid(), non_neg_integer() | default) -> ok.
ask_to_stop(Pid, DrainMs) ->
    Pid ! {?MODULE, stop, DrainMs},
    ok.

%% The native context of a process that is still starting, as soon as it has started.
-spec await(pid()) -> {ok, py_nif:ctx()} | error.
await(Pid) ->
    try
        {ok, gen_server:call(Pid, ctx, infinity)}
    catch
        exit:_ -> error
    end.

%% Waits until a process that is ending has ended.
-spec await_end(pid()) -> ok.
await_end(Pid) ->
    Monitor = monitor(process, Pid),
    receive
        {'DOWN', Monitor, process, Pid, _Reason} -> ok
    end.

%% What it was started with, if it answers in time.
-spec settings(pid(), timeout()) -> {ok, {py_options:mode(), py_options:complete()}} | error.
settings(Pid, TimeoutMs) ->
    try
        {ok, gen_server:call(Pid, settings, TimeoutMs)}
    catch
        exit:_ -> error
    end.

-spec init({pid(), reference(), py_options:id(), py_options:mode(), py_options:complete()}) ->
    {ok, #state{}} | ignore.
init({Starter, StarterRef, Id, Mode, Options}) ->
    process_flag(trap_exit, true),
    %% A context under a foreign supervisor ends with the application, too.
    _ = monitor(process, py_reactor_sup),
    case py_reactor_table:claim(Id) of
        ok ->
            case start_thread(Id, Mode, Options) of
                {ok, Ctx, Ref} ->
                    ok = py_reactor_table:ready(Id, Ctx),
                    ok = py_nif:notify_arm(Ctx),
                    DrainMs = map_get(drain_ms, Options),
                    {ok, #state{
                        id = Id, ctx = Ctx, ref = Ref, mode = Mode, options = Options, drain_ms = DrainMs
                    }};
                {error, Reason} ->
                    ok = py_reactor_table:release(),
                    refuse(Starter, StarterRef, Reason)
            end;
        {error, Reason} ->
            refuse(Starter, StarterRef, Reason)
    end.

-spec refuse(pid(), reference(), term()) -> ignore.
refuse(Starter, Ref, Reason) ->
    Starter ! {Ref, self(), Reason},
    ignore.

%% Where this gives up on a thread, the exit of this process, which follows, ends that as soon as Python lets it.
-spec start_thread(py_options:id(), py_options:mode(), py_options:complete()) ->
    {ok, py_nif:ctx(), reference()} | {error, term()}.
start_thread(Id, Mode, #{start_timeout_ms := TimeoutMs} = Options) ->
    Ref = make_ref(),
    case py_nif:context_start(Ref, Id, Mode, py_options:native(Options)) of
        {ok, Ctx} ->
            receive
                {Ref, ok} ->
                    {ok, Ctx, Ref};
                {Ref, {error, Reason}} ->
                    receive
                        {py_thread_end, Ref} -> _ = py_nif:context_join(Ctx)
                    after ?STOP_MARGIN_MS -> warn_of_held_thread(Id)
                    end,
                    {error, Reason};
                {?MODULE, stop, _DrainMs} ->
                    given_up(Ctx, stopped);
                {'EXIT', _Starter, Reason} ->
                    given_up(Ctx, {starter_exit, Reason})
            after TimeoutMs -> given_up(Ctx, {start_timeout, TimeoutMs})
            end;
        {error, _} = Error ->
            Error
    end.

%% The set-up code may never return by itself.
-spec given_up(py_nif:ctx(), Reason) -> {error, Reason}.
given_up(Ctx, Reason) ->
    ok = py_nif:context_kill(Ctx),
    {error, Reason}.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, term(), #state{}}.
handle_call(ctx, _From, State) ->
    {reply, State#state.ctx, State};
handle_call(settings, _From, #state{mode = Mode, options = Options} = State) ->
    {reply, {Mode, Options}, State};
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, puzzled(Request, State)}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(Unknown, State) ->
    {noreply, puzzled(Unknown, State)}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_info({select, _Notices, _, ready_input}, State) ->
    {noreply, report_and_arm(State)};
handle_info(tick, State) ->
    {noreply, tick(State)};
handle_info({?MODULE, stop, default}, State) ->
    {stop, normal, State};
handle_info({?MODULE, stop, DrainMs}, State) ->
    {stop, normal, State#state{drain_ms = DrainMs}};
handle_info({py_nif, loaded}, #state{ctx = Ctx} = State) ->
    case py_nif:is_known(Ctx) of
        true -> {noreply, State};
        false -> {stop, native_library_reloaded, State#state{ctx = lost}}
    end;
handle_info({py_thread_exit, Ref, Reason}, #state{ref = Ref} = State) ->
    {stop, {reactor_thread, Reason}, State#state{drain_ms = 0}};
handle_info({'DOWN', _Monitor, process, {py_reactor_sup, _Node}, _Reason}, State) ->
    {stop, {shutdown, application_stopped}, State};
handle_info({'EXIT', _Pid, Reason}, State) when Reason =/= normal ->
    {stop, Reason, State};
handle_info({'EXIT', _Pid, normal}, State) ->
    {noreply, State};
handle_info({fd_handoff, Fd, Info}, State) ->
    ok = hand_over(Fd, Info, State),
    {noreply, State};
handle_info(Unknown, State) ->
    {noreply, puzzled(Unknown, State)}.

%% As `py_reactor_context:handoff', for who cannot wait for an answer: a refusal is logged.
-spec hand_over(term(), term(), #state{}) -> ok.
hand_over(Fd, Info, #state{ctx = Ctx} = State) when is_integer(Fd) ->
    case py_reactor_socket:hand_over(Ctx, Fd, Info) of
        ok -> ok;
        {error, Reason} -> refused(Fd, Reason, State)
    end;
hand_over(Other, _Info, State) ->
    refused(Other, {bad_fd, Other}, State).

-spec refused(term(), term(), #state{}) -> ok.
refused(Fd, Reason, State) ->
    Text = "descriptor ~tP of a message {fd_handoff, Fd, Info} is not served: ~tP; handoff/3 of py_reactor_context "
        "answers its caller",
    logger:log(warning, Text, [Fd, 10, Reason, 20], meta(State)).

%% Once: whoever sends one may send many.
-spec puzzled(term(), #state{}) -> #state{}.
puzzled(_Message, #state{puzzled = true} = State) ->
    State;
puzzled(Message, State) ->
    Text = "this context does not know the message ~tP, and drops it; it says so once. A context serves "
        "{fd_handoff, Fd, Info} and the functions of py_reactor_context",
    logger:log(warning, Text, [Message, 20], meta(State)),
    State#state{puzzled = true}.

%% What a library that was purged has left can only be left: the end of this process ends it.
-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{ctx = lost}) ->
    py_reactor_table:release();
terminate(_Reason, #state{ctx = Ctx, drain_ms = DrainMs} = State) ->
    ok = py_nif:context_stop(Ctx, DrainMs),
    Deadline = make_ref(),
    _ = erlang:send_after(DrainMs + ?STOP_MARGIN_MS, self(), Deadline),
    drained(Deadline, State).

%% Waits for the thread's last word; what connections have to say while they end is still logged.
-spec drained(reference(), #state{}) -> ok.
drained(Deadline, #state{id = Id, ctx = Ctx, ref = Ref} = State) ->
    receive
        {py_thread_end, Ref} ->
            _ = py_nif:context_join(Ctx),
            ended(State);
        Deadline ->
            %% What still runs then, runs for nobody.
            _ = py_nif:context_interrupt(Ctx, make_ref()),
            ok = warn_of_held_thread(Id),
            ended(State);
        {select, _Notices, _, ready_input} ->
            drained(Deadline, report_and_arm(State))
    end.

-spec warn_of_held_thread(py_options:id()) -> ok.
warn_of_held_thread(Id) ->
    Text = "context ~b: its thread did not end in time: a callback, or a thread that Python code started, is still running",
    logger:log(warning, Text, [Id], #{py_context => Id}).

-spec ended(#state{}) -> ok.
ended(State) ->
    #state{log = Limit} = report(State),
    _ = py_reactor_log:tick(meta(State), Limit),
    py_reactor_table:release().

-spec report_and_arm(#state{}) -> #state{}.
report_and_arm(#state{ctx = Ctx} = State) ->
    NewState = report(State),
    ok = py_nif:notify_arm(Ctx),
    NewState.

-spec report(#state{}) -> #state{}.
report(#state{ctx = Ctx, log = Limit} = State) ->
    case py_nif:notify_take(Ctx) of
        [] -> State;
        Events -> ticking(State#state{log = py_reactor_log:log(Events, meta(State), Limit)})
    end.

-spec tick(#state{}) -> #state{}.
tick(#state{log = Limit} = State) ->
    case py_reactor_log:tick(meta(State), Limit) of
        {idle, NewLimit} -> State#state{log = NewLimit, ticking = false};
        {busy, NewLimit} -> ticking(State#state{log = NewLimit, ticking = false})
    end.

-spec ticking(#state{}) -> #state{}.
ticking(#state{ticking = true} = State) ->
    State;
ticking(State) ->
    _ = erlang:send_after(py_reactor_log:interval_ms(), self(), tick),
    State#state{ticking = true}.

-spec meta(#state{}) -> logger:metadata().
meta(#state{id = Id}) ->
    #{py_context => Id}.
