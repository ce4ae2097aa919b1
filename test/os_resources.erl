%% What this VM holds of the operating system and of itself.
-module(os_resources).

-export([snapshot/0, wait_back_to/1, threads_of_contexts/0, thread/1, sleeps/1, refuses/1]).

snapshot() ->
    Descriptors = descriptors(),
    {ok, Threads} = file:list_dir("/proc/self/task"),
    #{descriptors => length(Descriptors), threads => length(Threads), ports => length(erlang:ports())}.

%% Waits until nothing is left of what was there beyond a snapshot. What only garbage refers to is not there.
wait_back_to(Before) ->
    reactor_test:wait_equal(#{}, fun() ->
        _ = [erlang:garbage_collect(Pid) || Pid <- processes()],
        Now = snapshot(),
        maps:from_list([
            {Key, {was, Count, is, map_get(Key, Now), what(Key)}}
         || {Key, Count} <- maps:to_list(Before), map_get(Key, Now) > Count
        ])
    end).

%% How many there are: others of ours come and go by themselves.
threads_of_contexts() ->
    length([T || T <- filelib:wildcard("/proc/self/task/*/comm"), {ok, <<"py_reactor", _/binary>>} <- [file:read_file(T)]]).

%% The system's number of a context's thread.
thread(Context) ->
    {ok, Thread} = py:eval(Context, "__import__('threading').get_native_id()"),
    Thread.

%% Whether a thread waits, and has not merely been kept from going on.
sleeps(Thread) ->
    {ok, Stat} = file:read_file(["/proc/self/task/", integer_to_list(Thread), "/stat"]),
    [_, Rest] = string:split(Stat, ") ", trailing),
    binary:first(Rest) =:= $S.

%% Nobody of this process listens on that port of 127.0.0.1: who was given it meanwhile is another process.
refuses(Port) ->
    case gen_tcp:connect({127, 0, 0, 1}, Port, []) of
        {error, econnrefused} ->
            ok;
        {ok, Client} ->
            gen_tcp:close(Client),
            case listens(Port, "/proc/[0-9]*") -- listens(Port, "/proc/self") of
                [_ | _] -> ok;
                [] -> error({still_listens, Port})
            end
    end.

%% The sockets that listen there, as descriptors of those processes.
listens(Port, Processes) ->
    {ok, Table} = file:read_file("/proc/net/tcp"),
    Addresses = [iolist_to_binary(io_lib:format("~s:~4.16.0B", [Ip, Port])) || Ip <- ["0100007F", "00000000"]],
    Lines = [string:lexemes(Line, " ") || Line <- string:split(Table, "\n", all)],
    Sockets = [
        unicode:characters_to_list(["socket:[", Inode, "]"])
     || [_, Local, _, <<"0A">>, _, _, _, _, _, Inode | _] <- Lines, lists:member(Local, Addresses)
    ],
    Links = [element(2, file:read_link(Fd)) || Fd <- filelib:wildcard(Processes ++ "/fd/*")],
    [Socket || Socket <- Sockets, lists:member(Socket, Links)].

descriptors() ->
    {ok, Descriptors} = file:list_dir("/proc/self/fd"),
    Descriptors.

%% What there is, for whoever has to find out what is left.
what(descriptors) ->
    [{Number, file:read_link("/proc/self/fd/" ++ Number)} || Number <- descriptors()];
what(_) ->
    not_listed.
