%% @doc Keeps one context of the application running: starts it again when it fails.
%%
%% A supervisor would do so at once, a few times, and then give up, and everything with it. But what makes a context fail
%% may last (its set-up code needs a database that is away), and is nobody else's affair (B5). So this waits between
%% attempts, longer each time, for as long as it takes.
%% @private
-module(py_context_keeper).
-behaviour(gen_server).

-export([start_link/3, context/1, forget/2]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-record(state, {
    id :: py_options:id(),
    arguments :: {py_options:mode(), py_options:complete()},
    context = none :: pid() | none,
    %% The one before, which failed.
    failed = none :: pid() | none,
    started_ms = 0 :: integer(),
    %% Before the next attempt.
    pause_ms = 0 :: non_neg_integer()
}).

%% After the first attempt, which is made at once, and twice as long after each that follows, up to the maximum.
-define(PAUSE_MIN_MS, 100).
-define(PAUSE_MAX_MS, 10000).
%% Who has run for so long begins anew.
-define(SOUND_MS, 10000).

%% The first start is the caller's affair: its failure is an error. A context that is written down has run before.
-spec start_link(py_options:id(), py_options:mode(), py_options:complete()) -> {ok, pid()} | {error, term()}.
start_link(Id, Mode, Options) ->
    case gen_server:start_link(?MODULE, {Id, {Mode, Options}}, []) of
        {ok, Pid} -> {ok, Pid};
        {error, _} = Error -> Error
    end.

%% The context, unless it waits to be started again.
-spec context(pid()) -> {ok, pid()} | restarting | ended.
context(Keeper) ->
    call(Keeper, context).

%% Lets go of a context that was stopped (or of one that waits to be started again): it stays away.
-spec forget(pid(), Stopped :: pid() | none) -> ok | running | ended.
forget(Keeper, Stopped) ->
    call(Keeper, {forget, Stopped}).

-spec call(pid(), term()) -> term().
call(Keeper, Request) ->
    try
        gen_server:call(Keeper, Request, infinity)
    catch
        exit:_ -> ended
    end.

-spec init({py_options:id(), {py_options:mode(), py_options:complete()}}) ->
    {ok, #state{}} | {ok, #state{}, {continue, start}} | {stop, {shutdown, term()}}.
init({Id, Arguments}) ->
    process_flag(trap_exit, true),
    State = #state{id = Id, arguments = Arguments},
    case py_reactor_table:spec({context, Id}) of
        {ok, _RanBefore} ->
            {ok, State, {continue, start}};
        error ->
            case start(State) of
                {ok, Started} ->
                    ok = py_reactor_table:put_spec({context, Id}, Arguments),
                    {ok, Started};
                {error, Reason} ->
                    {stop, {shutdown, Reason}}
            end
    end.

-spec handle_continue(start, #state{}) -> {noreply, #state{}}.
handle_continue(start, State) ->
    {noreply, start_again(State)}.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, term(), #state{}} | {stop, normal, ok, #state{}}.
handle_call(context, _From, #state{context = none} = State) ->
    {reply, restarting, State};
handle_call(context, _From, #state{context = Context} = State) ->
    {reply, {ok, Context}, State};
handle_call({forget, Context}, _From, #state{context = Context} = State) ->
    {stop, normal, ok, forgotten(State)};
handle_call({forget, Failed}, _From, #state{failed = Failed, context = none} = State) when is_pid(Failed) ->
    %% It was to be stopped, and was killed meanwhile.
    {stop, normal, ok, forgotten(State)};
handle_call({forget, Failed}, _From, #state{failed = Failed, context = Context} = State) when is_pid(Failed) ->
    ok = end_context(Context),
    {stop, normal, ok, forgotten(State)};
handle_call({forget, _Other}, _From, State) ->
    {reply, running, State};
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(_Unknown, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, normal, #state{}}.
handle_info({'EXIT', Context, normal}, #state{context = Context} = State) ->
    {stop, normal, forgotten(State)};
handle_info({'EXIT', Context, Reason}, #state{context = Context} = State) ->
    {noreply, failed(Reason, State)};
handle_info(start, #state{context = none} = State) ->
    {noreply, start_again(State)};
handle_info(_Unknown, State) ->
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{context = none}) ->
    ok;
terminate(_Reason, #state{context = Context}) ->
    end_context(Context).

-spec end_context(pid()) -> ok.
end_context(Context) ->
    exit(Context, shutdown),
    receive
        {'EXIT', Context, _} -> ok
    end.

-spec forgotten(#state{}) -> #state{}.
forgotten(#state{id = Id} = State) ->
    ok = py_reactor_table:delete_spec({context, Id}),
    State#state{context = none}.

-spec start(#state{}) -> {ok, #state{}} | {error, term()}.
start(#state{id = Id, arguments = {Mode, Options}} = State) ->
    case py_context_server:start_link(Id, Mode, Options) of
        {ok, Context} -> {ok, State#state{context = Context, started_ms = now_ms()}};
        {error, _} = Error -> Error
    end.

-spec start_again(#state{}) -> #state{}.
start_again(#state{id = Id} = State) ->
    case start(State) of
        {ok, Started} ->
            Started;
        {error, {already_started, _Predecessor}} ->
            %% It outlived its keeper, and still delivers what was written.
            later(State);
        {error, Reason} ->
            Text = "context ~tp could not be started again: ~tp; the next attempt is in ~b ms",
            logger:log(error, Text, [Id, Reason, State#state.pause_ms], #{py_context => Id}),
            later(State)
    end.

-spec failed(term(), #state{}) -> #state{}.
failed(Reason, #state{id = Id, context = Context, started_ms = StartedMs} = State) ->
    logger:log(error, "context ~tp failed and is started again: ~tp", [Id, Reason], #{py_context => Id}),
    Down = State#state{context = none, failed = Context},
    case now_ms() - StartedMs >= ?SOUND_MS of
        true -> later(Down#state{pause_ms = 0});
        false -> later(Down)
    end.

-spec later(#state{}) -> #state{}.
later(#state{pause_ms = PauseMs} = State) ->
    _ = erlang:send_after(PauseMs, self(), start),
    State#state{pause_ms = min(max(2 * PauseMs, ?PAUSE_MIN_MS), ?PAUSE_MAX_MS)}.

-spec now_ms() -> integer().
now_ms() ->
    erlang:monotonic_time(millisecond).
