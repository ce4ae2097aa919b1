%% @doc The root: owns the table, runs the contexts, the listeners that serve them, the relay to other nodes, and
%% the calls of Erlang functions.
%%
%% `rest_for_one', because a listener without contexts has nowhere to put a connection.
%% @private
-module(py_reactor_sup).
-behaviour(supervisor).

-export([start_link/0, stop_listeners/0]).
-export([init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec stop_listeners() -> ok.
stop_listeners() ->
    try
        ok = supervisor:terminate_child(?MODULE, py_listener_sup)
    catch
        %% The application ends because this supervisor did.
        exit:{noproc, _} -> ok
    end.

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    ok = py_reactor_table:new(),
    Flags = #{strategy => rest_for_one, intensity => 3, period => 60},
    Supervisors = [
        #{id => Module, start => {Module, start_link, []}, type => supervisor, shutdown => infinity}
     || Module <- [py_service_sup, py_context_sup, py_listener_sup]
    ],
    {ok, {Flags, Supervisors}}.
